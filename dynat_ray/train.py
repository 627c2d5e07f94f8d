"""`python -m dynat_ray.train`: one training run through Ray Train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dynat_ray.cli import ArgumentParser
from dynat_ray.cli import run as run_command
from dynat_ray.settings import (
    build_config,
    describe_settings,
    read_recipe,
    read_settings,
    recipe_names,
    split_arguments,
)

_DEFAULT_RECIPE = "digits"


def main(argv: Sequence[str]) -> str:
    """Trains as the arguments say and returns the path of the report."""
    overrides, rest = split_arguments(argv)
    options = _parser().parse_args(rest)
    layers = [read_recipe(options.recipe or _DEFAULT_RECIPE)]
    if options.config:
        # A complete config.yaml stands for itself; a partial one builds on the recipe.
        layers.append(read_settings(options.config))
    config = build_config([*layers, overrides])

    # Ray takes seconds to import: after the settings are known to be right.
    from dynat_ray.distributed.training_run import run
    from dynat_ray.report import final_table
    from dynat_ray.storage.places import open_place
    from dynat_ray.storage.run_folder import default_name

    name = options.name or default_name(options.recipe or _DEFAULT_RECIPE, config.method.name)
    with open_place(config.cluster.storage, options.out, name) as place:
        results = run(config, place.folder, resume=options.resume, out_given=place.given)
    print(f"\n{final_table(results)}\n")
    return place.written("report.html")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m dynat_ray.train",
        description="Trains a robust classifier through Ray Train. "
        "Any setting can be given as --section.key VALUE; numbers such as 8/255 are understood.",
        epilog=describe_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", help=f"one of {', '.join(recipe_names())} (default: digits)")
    parser.add_argument("--config", type=Path, help="YAML file of settings, on top of the recipe")
    parser.add_argument("--out", help="folder or s3:// address for run folders (default: runs)")
    parser.add_argument("--name", help="of the run's folder (default: recipe, method and time)")
    parser.add_argument("--resume", action="store_true", help="go on with the run of that name")
    return parser


if __name__ == "__main__":
    run_command(main)
