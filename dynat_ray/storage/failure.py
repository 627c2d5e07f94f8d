"""Why a run failed, for whoever looks at its folder later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.bounded_file import read_bounded
from dynat_ray.errors import Stopped
from dynat_ray.shown_text import shown_text

FAILURE = "failure.txt"
_LONGEST = 2000


@contextmanager
def failure_recorded(folder: Path) -> Iterator[None]:
    """Leaves in a run's folder what ends its context with an error; being told to end is none."""
    file = folder / FAILURE
    # Emptied and not removed: a store keeps what a folder no longer has.
    if file.is_file():
        atomic_write_text(file, "")
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        # A full disk may be what went wrong.
        with suppress(OSError):
            atomic_write_text(file, shown_text(str(error) or type(error).__name__, _LONGEST) + "\n")
        raise


def read_failure(folder: Path) -> str:
    """Returns why the run in a folder failed, one line; empty if it did not."""
    try:
        return shown_text(read_bounded(folder / FAILURE).decode(errors="replace").strip(), _LONGEST)
    except OSError:
        return ""
