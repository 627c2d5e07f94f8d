"""Room on the cache disk: what has not been used for longest goes, never what is in use."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynat_ray.errors import UserError

_IN_USE = "in-use"
# Left for what else writes to that disk meanwhile.
_SPARE = 2**28
# Left by what grows as long as a run does, beside its checkpoints perhaps: one part in so many.
_SPARE_PART = 10
_held: dict[Path, int] = {}


def use(folder: Path) -> None:
    """Makes a folder of the cache, if there is none, and keeps it as long as this process lives."""
    if folder in _held and _is_there(folder, _held[folder]):
        os.utime(folder / _IN_USE)
        return
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # Somebody is removing it just now.
            descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with suppress(OSError):  # Some file systems have no locks; there nothing ever goes.
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_there(folder, descriptor):
                os.utime(descriptor)
                _held[folder] = descriptor
                return
            os.close(descriptor)


def make_room(parent: Path, needed: int) -> None:
    """Removes folders until so many bytes are free.

    Args:
        parent: What holds them.
        needed: Bytes.

    Raises:
        UserError: The others are in use, and there still is no room.
    """
    _remove_until(parent, needed + _SPARE)
    free = shutil.disk_usage(parent).free
    if free < needed + _SPARE:
        raise UserError(
            f"{needed / 1e9:.2f} GB are to be fetched to {parent}, whose disk has "
            f"{free / 1e9:.2f} GB left; make room, or set DYNAT_RAY_CACHE to a folder on another "
            "disk"
        )


def make_room_to_spare(parent: Path, wanted: int) -> None:
    """Removes folders until so much is free that all of it may be kept, or nothing can go.

    Args:
        parent: What holds them.
        wanted: Bytes that would be kept if there were room.
    """
    _remove_until(parent, wanted + _spare_part(shutil.disk_usage(parent).total))


def has_room_to_spare(parent: Path, needed: int) -> bool:
    """Returns whether bytes may be kept that no run depends on: a good part of the disk stays free.

    Args:
        parent: A folder on it.
        needed: Bytes.
    """
    disk = shutil.disk_usage(parent)
    return disk.free >= needed + _spare_part(disk.total)


def _spare_part(total: int) -> int:
    return max(_SPARE, total // _SPARE_PART)


def _remove_until(parent: Path, free: int) -> None:
    for folder in _least_recently_used(parent):
        if shutil.disk_usage(parent).free >= free:
            return
        with _unused(folder) as unused:
            if unused:
                shutil.rmtree(folder, ignore_errors=True)


def _least_recently_used(parent: Path) -> list[Path]:
    found = []
    for folder in parent.iterdir():
        with suppress(OSError):
            found.append(((folder / _IN_USE).stat().st_mtime, folder))
    return [folder for _, folder in sorted(found)]


@contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Gives whether nobody uses a folder, who could not begin to while the context lasts."""
    try:
        descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _is_there(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder / _IN_USE), os.fstat(descriptor))
    except OSError:
        return False
