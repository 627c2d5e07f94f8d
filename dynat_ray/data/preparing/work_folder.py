"""The folder in which a data set is made, and what dead preparers left of theirs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dynat_ray.atomic_files import publish_folder
from dynat_ray.data.cache_folder import cache_folder
from dynat_ray.data.preparing.part_sending import PartSender
from dynat_ray.errors import UserError
from dynat_ray.owned_folder import owned_folder


@contextmanager
def work_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Gives a new folder that becomes `out` at the end, and one for what is needed meanwhile.

    Both lie beside `out`, in a folder that is gone in the end; what a preparer of `out` that died
    has left there is removed first.

    Args:
        out: Where to; a data-set folder that is there already is replaced.

    Raises:
        UserError: Something else is at `out`, or nothing can be written there.
    """
    try:
        _require_replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        with owned_folder(out.parent, f".{out.name}-") as made:
            data, scratch = made / "data", made / "scratch"
            data.mkdir()
            scratch.mkdir()
            yield data, scratch
            # Asked again: another run may have made it meanwhile.
            _require_replaceable(out)
            publish_folder(data, out)
    except OSError as error:
        raise _cannot_write(out, error, "give --out") from error


@contextmanager
def sending_folder(address: str) -> Iterator[tuple[Path, Path, PartSender]]:
    """Gives a new folder, one for what is needed meanwhile, and what sends files to a store.

    Both are gone in the end; they lie in the cache folder, whose disk needs room for a few parts.

    Args:
        address: Of the data set.

    Raises:
        UserError: Something else is there, or nothing can be written there or here.
    """
    parent = cache_folder() / "preparing"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with owned_folder(parent, "set-") as made, closing(PartSender(address)) as sender:
            data, scratch = made / "data", made / "scratch"
            data.mkdir()
            scratch.mkdir()
            yield data, scratch, sender
    except OSError as error:
        raise _cannot_write(parent, error, "set DYNAT_RAY_CACHE to a folder") from error


def _require_replaceable(out: Path) -> None:
    """Raises `UserError` if anything but a data set or an empty folder is at `out`."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "dataset.json").is_file():
        raise UserError(f"{out} exists and is no data-set folder; give another --out")


def _cannot_write(out: Path, error: OSError, advice: str) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"the disk of {out} is full; make room, or {advice} on another disk")
    what = error.filename or out
    return UserError(f"cannot prepare {out}: {error.strerror or error}: {what}")
