"""What `dynat_ray.benchmark` measures, one file per part."""
