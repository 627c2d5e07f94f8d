"""This machine's copy of a data set that lies in an object store (`s3://`, `gs://`).

`$DYNAT_RAY_CACHE/from-stores` has a folder for each: its `dataset.json`, and the files that were
asked for. One process of the machine fetches, the others wait for it; all else reads a folder.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.bounded_file import read_bounded
from dynat_ray.data.cache_folder import cache_folder
from dynat_ray.data.cache_room import make_room, use
from dynat_ray.data.info import (
    COPIED_FROM,
    DESCRIPTION,
    LARGEST_TENSOR_FILE,
    DatasetInfo,
    is_copy,
    parse_info,
    read_info,
    require_intact,
)
from dynat_ray.data.part_fetching import AGAIN, PartialFile
from dynat_ray.data.stored_parts import UNFINISHED
from dynat_ray.durations import describe_seconds
from dynat_ray.errors import UserError, disk_error
from dynat_ray.object_store import is_address, open_store, patiently, split_address
from dynat_ray.user_path import user_path

_LARGEST_DESCRIPTION = 2**24
_SECONDS_BETWEEN_LINES = 10.0

Say = Callable[[str], None]


def load_info(path: Path | str) -> DatasetInfo:
    """Reads `dataset.json` of a prepared folder, or of a data set in an object store.

    Raises:
        UserError: It is missing, was not prepared, or its description is damaged; or the store
            does not answer.
    """
    return read_info(data_folder(path))


def data_folder(path: Path | str) -> Path:
    """Returns the folder of a data set on this machine; for an address, that of its copy.

    Of a copy `dataset.json` is there; other files are once `require_here` was asked for them.

    Raises:
        UserError: There is no data set at the address, or the store does not answer.
    """
    if not is_address(str(path)):
        return user_path(path)
    text = _description(str(path))
    _, name = split_address(str(path))
    key = hashlib.sha256(f"{path}\n".encode() + text).hexdigest()[:16]
    folder = cache_folder() / "from-stores" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[-60:]}-{key}"
    try:
        use(folder)
        if not (folder / DESCRIPTION).exists():
            atomic_write_text(folder / COPIED_FROM, str(path))
            atomic_write_text(folder / DESCRIPTION, text.decode())
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def require_here(
    info: DatasetInfo,
    file: Path,
    numbers: Collection[int] | None = None,
    *,
    say: Say | None = None,
) -> None:
    """Fetches what this machine lacks of a file; nothing if that is not in a copy.

    Args:
        info: The data set.
        file: One of its files, by its place on this machine.
        numbers: Of the parts that are wanted; None: all.
        say: Takes lines that tell how far it is; None: they go to stderr.

    Raises:
        UserError: A part is missing or damaged, the store does not answer, or there is no room.
    """
    if file.name not in info.files or not is_copy(file.parent):
        return
    address, partial = _partial(info, file)
    wanted = set(range(len(partial.parts)) if numbers is None else numbers)
    if wanted.isdisjoint(partial.missing()):
        return
    say = say or _say_on_stderr
    try:
        with _alone(
            file.parent, lambda: say(f"waiting for another process that fetches {address}")
        ):
            if not (lacking := sorted(wanted.intersection(partial.missing()))):
                return
            total = sum(partial.parts[each].bytes for each in lacking)
            make_room(file.parent.parent, total)
            partial.fetch(lacking, _Progress(f"fetching {file.name} of {address}", total, say).add)
    except OSError as error:
        raise _unwritable(file.parent, error) from None


def lacking_parts(info: DatasetInfo, file: Path) -> dict[int, int]:
    """Returns the bytes of each part of a file that this machine lacks, by number.

    Args:
        info: The data set.
        file: One of its files, by its place on this machine; of a folder nothing is lacking.
    """
    if file.name not in info.files or not is_copy(file.parent):
        return {}
    _, partial = _partial(info, file)
    return {each: partial.parts[each].bytes for each in partial.missing()}


def parts_here(info: DatasetInfo, file: Path) -> list[int]:
    """Returns the numbers of a copied file's parts that this machine has."""
    return _partial(info, file)[1].here()


def require_undamaged(info: DatasetInfo, file: Path) -> None:
    """Raises `UserError` if a stored file differs from what was written, as `require_intact` does.

    Of a copy, what was fetched of it is looked at.
    """
    wanted = info.files.get(file.name)
    if wanted is None or not is_copy(file.parent):
        require_intact(info, file)
    elif wanted.bytes <= LARGEST_TENSOR_FILE and not _partial(info, file)[1].is_intact():
        raise UserError(
            f"{file} is damaged: its checksum is wrong; remove {file.parent}, and it is fetched "
            "again"
        )


def _partial(info: DatasetInfo, file: Path) -> tuple[str, PartialFile]:
    """Returns where a copied file comes from, and what is here of it."""
    address = read_bounded(file.parent / COPIED_FROM).decode()
    return address, PartialFile(info, file, address)


@functools.cache
def _description(address: str) -> bytes:
    """Returns the content of `dataset.json`, the same as long as this process lives."""

    def read() -> bytes:
        store, root = open_store(address)
        with store.open_input_file(f"{root}/{DESCRIPTION}") as opened:
            return opened.read(_LARGEST_DESCRIPTION)  # type: ignore[no-any-return]

    how = f"make it with: python -m dynat_ray.prepare SOURCE --out {address}"
    try:
        text = patiently(read, address, AGAIN)
    except FileNotFoundError:
        store, root = open_store(address)
        path = f"{root}/{UNFINISHED}"
        begun = patiently(lambda: store.get_file_info(path), address, AGAIN).is_file
        if begun:
            raise UserError(
                f"the data set {address} is not complete: `prepare` is still writing it, or was "
                "stopped and goes on when it is run again"
            ) from None
        raise UserError(f"there is no data set at {address}, no {DESCRIPTION}; {how}") from None
    parse_info(text, address, how)
    return text


@contextmanager
def _alone(folder: Path, say_waiting: Callable[[], None]) -> Iterator[None]:
    """Keeps other processes of this machine from fetching to a folder while its context lasts."""
    descriptor = os.open(folder / "fetching", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # Without locks, as on some file systems, several write the same bytes to the same places.
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say_waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class _Progress:
    """Tells now and then how much has come, at what rate, and how long the rest takes.

    Args:
        what: Is done.
        total: Bytes.
        say: Takes the lines.
    """

    def __init__(self, what: str, total: int, say: Say) -> None:
        self._what, self._total, self._say = what, total, say
        self._lock = threading.Lock()
        self._began = self._said = time.monotonic()
        self._come = 0

    def add(self, count: int) -> None:
        """Counts bytes that have come."""
        with self._lock:
            self._come += count
            now = time.monotonic()
            over = now - self._said < _SECONDS_BETWEEN_LINES
            if (over and self._come < self._total) or self._come <= 0:
                return
            self._said = now
            rate = self._come / max(now - self._began, 1e-3)
            left = describe_seconds((self._total - self._come) / rate)
            unit, name = (1e9, "GB") if self._total >= 1e9 else (1e6, "MB")
            self._say(
                f"{self._what}: {self._come / unit:.1f} of {self._total / unit:.1f} {name}, "
                f"{rate / 1e6:.0f} MB/s, {left} left"
            )


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    if disk_error(error):
        return UserError(
            f"the disk of {folder.parent} is full or read-only, where the data set is to be "
            "fetched; make room, or set DYNAT_RAY_CACHE to a folder on another disk"
        )
    return UserError(
        f"the data set can't be fetched to {folder}: {error}; set DYNAT_RAY_CACHE to a folder that "
        "can be written"
    )
