"""What every command shares: how it ends, and what it prints when it does."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dynat_ray.errors import Stopped, UserError, disk_error
from dynat_ray.interrupt import SigTerm
from dynat_ray.submitted_job import explain_missing

USER_MISTAKE = 2
TOLD_TO_END = 143
_INTERRUPTED = 130


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong argument is a `UserError` and options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help lists the options)")


def run(main: Callable[[Sequence[str]], Path | str]) -> NoReturn:
    """Runs a command and exits: 0 with the path it wrote on the last line, 2 on a user's mistake.

    Args:
        main: Takes the arguments after the program's name; returns the path to print. Raises
            `UserError` (printed as one `error:` line on stderr) for what the user can correct.
    """
    try:
        written = main(sys.argv[1:])
    except UserError as error:
        _fail(error)
    except OSError as error:
        if disk := disk_error(error):
            _fail(disk)
        raise
    except Stopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        sys.exit(TOLD_TO_END)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(TOLD_TO_END if SigTerm.received else _INTERRUPTED)
    print(written, flush=True)
    sys.exit(0)


def _fail(error: UserError) -> NoReturn:
    sys.stdout.flush()
    error = explain_missing(error, sys.argv[1:])
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(USER_MISTAKE)
