"""`python -m dynat_ray.train`: one training run through Ray Train."""

from __future__ import annotations

from collections.abc import Sequence

from dynat_ray import cli, run_options
from dynat_ray.attack_names import check_attack_names
from dynat_ray.settings import DEFAULT_METHOD, build_config, split_arguments


def main(argv: Sequence[str]) -> str:
    """Trains as the arguments say and returns the path of the report."""
    # A complete config.yaml stands for itself; a partial one builds on the recipe.
    options, layers, overrides = run_options.parse_with_settings(_parser(argv), argv)
    config = build_config([*layers, overrides])
    check_attack_names(config.eval.attacks)

    # Ray takes seconds to import: after the settings are known to be right.
    from dynat_ray.distributed.training_run import run
    from dynat_ray.report import final_table
    from dynat_ray.storage.places import open_place
    from dynat_ray.storage.run_folder import default_name

    name = options.name or default_name(options.recipe, config.method.name)
    where = config.cluster.storage, options.out, name
    with open_place("run", *where, resume=options.resume) as place:
        results = run(config, place.folder, resume=options.resume, out_given=place.given)
    print(f"\n{final_table(results)}\n")
    return place.written("report.html")


def _parser(argv: Sequence[str]) -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        prog="python -m dynat_ray.train",
        usage="%(prog)s [options] [--section.key VALUE ...]",
        description="Trains a robust classifier through Ray Train. "
        "Any setting can be given as --section.key VALUE; numbers such as 8/255 are understood.",
    )
    run_options.add_run_options(parser, "run", named_after="recipe, method")
    overrides, _ = split_arguments(argv)
    run_options.add_settings_help(parser, str(overrides.get("method.name", DEFAULT_METHOD)))
    return parser


if __name__ == "__main__":
    cli.run(main)
