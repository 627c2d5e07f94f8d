"""What commands share: options, how they end and what they print. Nothing here imports PyTorch."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynat_ray import interrupt
from dynat_ray.errors import Stopped, UserError, disk_error
from dynat_ray.shown_text import shown_text
from dynat_ray.submitted_job import explain_missing
from dynat_ray.user_path import user_path
from dynat_ray.value_types import check_value


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong argument is a `UserError` and options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists the options)")


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
    except SystemExit:
        # Some libraries have a handler of signals that raises it.
        if interrupt.received_so_far():
            interrupt.end_stopped()
        raise
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
