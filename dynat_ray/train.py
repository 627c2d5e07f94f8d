"""`python -m dynat_ray.train`: one training run through Ray Train."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from dynat_ray.command_line import ArgumentParser
from dynat_ray.command_line import run as run_command
from dynat_ray.config_files import (
    build_config,
    describe_settings,
    read_recipe,
    read_settings,
    recipe_names,
    split_arguments,
)
from dynat_ray.methods import method_settings

_DEFAULT_RECIPE = "digits"


def main(argv: Sequence[str]) -> Path:
    """Trains as the arguments say and returns the path of the report."""
    overrides, rest = split_arguments(argv)
    options = _parser().parse_args(rest)
    layers = [read_recipe(options.recipe or _DEFAULT_RECIPE)]
    if options.config:
        # A complete config.yaml stands for itself; a partial one builds on the recipe.
        layers.append(read_settings(options.config))
    config = build_config([*layers, overrides], method_settings())

    # Ray takes seconds to import: after the settings are known to be right.
    from dynat_ray.distributed.run import run
    from dynat_ray.report import final_table
    from dynat_ray.training.run_folder import default_name, default_out

    out = Path(config.cluster.storage or options.out or default_out()).expanduser()
    given = bool(config.cluster.storage or options.out or os.environ.get("DYNAT_RAY_OUT"))
    name = options.name or default_name(options.recipe or _DEFAULT_RECIPE, config.method.name)
    folder = out.resolve() / name
    results = run(config, folder, resume=options.resume, out_given=given)
    print(f"\n{final_table(results)}\n")
    return folder / "report.html"


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m dynat_ray.train",
        description="Trains a robust classifier through Ray Train. "
        "Any setting can be given as --section.key VALUE; numbers such as 8/255 are understood.",
        epilog=describe_settings(method_settings()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recipe", help=f"one of {', '.join(recipe_names())} (default: digits)")
    parser.add_argument("--config", type=Path, help="YAML file of settings, on top of the recipe")
    parser.add_argument("--out", type=Path, help="where run folders go (default: runs)")
    parser.add_argument("--name", help="of the run's folder (default: recipe, method and time)")
    parser.add_argument("--resume", action="store_true", help="go on with the run of that name")
    return parser


if __name__ == "__main__":
    run_command(main)
