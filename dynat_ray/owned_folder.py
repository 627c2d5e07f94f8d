"""Folders that live as long as their process, and those that dead processes have left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = "owner.lock"
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@contextmanager
def owned_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Gives a new folder that is gone in the end; first removes what dead owners left.

    Its lock is held as long as this process lives, so that others know.

    Args:
        parent: Where to make it; it exists.
        prefix: How the names of all such folders begin.

    Raises:
        OSError: Nothing can be written there.
    """
    _remove_leftovers(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        lock = _lock(folder)
        try:
            yield folder
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> int:
    """Makes the lock of a folder; returns it, held."""
    descriptor, name = tempfile.mkstemp(dir=folder)
    with suppress(OSError):  # Some file systems have no locks; then nothing is ever taken for left.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It has its name only when it is held: an unheld one says that its owner is dead.
        os.rename(name, folder / _LOCK)
    return descriptor


def _remove_leftovers(parent: Path, prefix: str) -> None:
    with os.scandir(parent) as entries:
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
