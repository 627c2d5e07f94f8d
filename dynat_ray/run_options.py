"""Options of the commands that train, and settings on their command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dynat_ray.settings import (
    Settings,
    describe_settings,
    read_recipe,
    read_settings,
    recipe_names,
    split_arguments,
)

_DEFAULT_RECIPE = "digits"


def add_run_options(
    parser: argparse.ArgumentParser, noun: str, *, named_after: str, resume: str = ""
) -> None:
    """Adds what commands that train have in common.

    Args:
        parser: The command's.
        noun: What it makes in a folder: a run, a search or a comparison.
        named_after: What the folder's name says by default, beside the time.
        resume: What more to say of `--resume`.
    """
    add = parser.add_argument
    recipes = ", ".join(recipe_names())
    add("--recipe", default=_DEFAULT_RECIPE, help=f"one of {recipes} (default: {_DEFAULT_RECIPE})")
    add("--config", type=Path, help="YAML file of settings, on top of the recipe")
    add("--out", help=f"folder or s3:// address for the {noun}'s folder (default: runs)")
    add("--name", help=f"of the {noun}'s folder (default: {named_after} and time)")
    add("--resume", action="store_true", help=f"go on with the {noun} of that name{resume}")


def add_settings_help(parser: argparse.ArgumentParser, method: str) -> None:
    """Adds every setting of a run by the `method` to what `--help` shows, a group a section."""
    for title, group in describe_settings(method).items():
        add = parser.add_argument_group(title).add_argument
        for each in group:
            text = f"{each.sentence} (type: {each.allowed}; default: {each.default})"
            add(f"--{each.key}", metavar="VALUE", help=text.replace("%", "%%"))


def parse_with_settings(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[Settings], Settings]:
    """Returns the command's options and the settings that came with them.

    Args:
        parser: Has the options of `add_run_options`.
        argv: The arguments.

    Returns:
        The options; the settings of `--recipe` and of `--config`, which wins over it; and those of
        `--section.key VALUE`, which win over both.

    Raises:
        UserError: An option is wrong; the recipe or the file is not there.
    """
    overrides, rest = split_arguments(argv)
    options = parser.parse_args(rest)
    recipe = read_recipe(options.recipe)
    given = read_settings(options.config) if options.config else {}
    return options, [recipe, given], overrides
