"""What commands share: options, settings on the command line, how they end and what they print."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynat_ray import interrupt
from dynat_ray.errors import Stopped, UserError, disk_error
from dynat_ray.settings import (
    Settings,
    describe_settings,
    read_recipe,
    read_settings,
    recipe_names,
    split_arguments,
)
from dynat_ray.shown_text import shown_text
from dynat_ray.submitted_job import explain_missing
from dynat_ray.user_path import user_path
from dynat_ray.value_types import check_value

_DEFAULT_RECIPE = "digits"


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong argument is a `UserError` and options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists the options)")


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


def add_architecture_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds what says which network a file of weights is of: `arch` and `kwargs`, a mapping."""

    def mapping(text: str) -> dict[str, object]:
        found: dict[str, object] = check_value("--kwargs", text, dict[str, object])
        return found

    add = parser.add_argument
    add("--arch", required=required, metavar="NAME", help="of the network in timm's registry")
    text = "arguments of the network, such as '{depth: 34, widen: 10}'"
    add("--kwargs", type=mapping, default={}, metavar="MAPPING", help=text)


def new_folder(given: str) -> Path:
    """Returns the folder that `--out` names; `UserError` if something is in it already."""
    folder = user_path(given)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out is {given}, where something is already; give a new folder")
    return folder


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


def run(main: Callable[[Sequence[str]], Path | str]) -> NoReturn:
    """Runs a command and exits: 0 with the path it wrote on the last line, 2 on a user's mistake.

    On SIGINT it exits with 130, on SIGTERM with 143, see `dynat_ray.interrupt`.

    Args:
        main: Takes the arguments after the program's name; returns the path to print. Raises
            `UserError` (printed as one `error:` line on stderr) for what the user can correct.
    """
    _show_what_can_be_shown()
    try:
        interrupt.run()
        _require_text(sys.argv[1:])
        written = main(sys.argv[1:])
    except UserError as error:
        _fail(error)
    except OSError as error:
        if disk := disk_error(error):
            _fail(disk)
        raise
    except Stopped as stopped:
        interrupt.say_stopped(str(stopped))
        interrupt.end_stopped()
    except KeyboardInterrupt:
        interrupt.end_stopped()
    print(written, flush=True)
    sys.exit(0)


def _show_what_can_be_shown() -> None:
    """Has a terminal that knows fewer characters than a name has show `?` in their place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _require_text(arguments: Sequence[str]) -> None:
    """Raises `UserError` if one holds bytes that are no text: names go into files and pages."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UserError(f"the argument {argument!a} is not UTF-8; give another name") from None


def _fail(error: UserError) -> NoReturn:
    sys.stdout.flush()
    error = explain_missing(error, sys.argv[1:])
    print(f"error: {shown_text(str(error))}", file=sys.stderr)
    sys.exit(interrupt.USER_MISTAKE)
