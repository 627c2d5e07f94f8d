"""The folder beside `--out` in which a data set is made, and what dead preparers left of theirs."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynat_ray.atomic_files import publish_folder
from dynat_ray.errors import UserError

_LOCK = "preparing.lock"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@contextmanager
def work_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Gives a new folder that becomes `out` at the end, and one for what is needed meanwhile.

    Both lie beside `out`, in a folder that is gone in the end. Its lock is held as long as this
    process lives, so that the next one to prepare `out` knows what a dead one left, and removes it.

    Args:
        out: Where to; a data-set folder that is there already is replaced.

    Raises:
        UserError: Something else is at `out`, or nothing can be written there.
    """
    made: Path | None = None
    try:
        _require_replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        lock = _lock(made)
        try:
            data, scratch = made / "data", made / "scratch"
            data.mkdir()
            scratch.mkdir()
            yield data, scratch
            # Asked again: another run may have made it meanwhile.
            _require_replaceable(out)
            publish_folder(data, out)
        finally:
            os.close(lock)
    except OSError as error:
        raise _cannot_write(out, error) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Makes the lock of a folder; returns it, held."""
    descriptor, name = tempfile.mkstemp(dir=folder)
    with suppress(OSError):  # Some file systems have no locks; then nothing is ever taken for left.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It has its name only when it is held: an unheld one says that its owner is dead.
        os.rename(name, folder / _LOCK)
    return descriptor


def _remove_leftovers(out: Path) -> None:
    prefix = f".{out.name}-"
    with os.scandir(out.parent) as entries:
        left = [
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
        ]
    for folder in left:
        with suppress(OSError):
            descriptor = os.open(folder / _LOCK, _FLAGS)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _require_replaceable(out: Path) -> None:
    """Raises `UserError` if anything but a data set or an empty folder is at `out`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "dataset.json").is_file():
        raise UserError(f"{out} exists and is no data-set folder; give another --out")


def _cannot_write(out: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk of {out} is full; make room, or give --out on another disk")
    what = error.filename or out
    return UserError(f"cannot prepare {out}: {error.strerror or error}: {what}")
