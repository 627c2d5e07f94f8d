"""Fetching the parts of a stored file from an object store into a file of this machine.

Parts that are there are listed beside the file, so that whoever comes next fetches the others
alone. Parts that are not there are holes in the file and take no room.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs as stores

from dynat_ray.atomic_files import append_line
from dynat_ray.bounded_file import read_bounded
from dynat_ray.data.info import DatasetInfo, StoredFile
from dynat_ray.data.stored_parts import parts_of, starts_of
from dynat_ray.errors import UserError
from dynat_ray.object_store import join, open_store, patiently

AGAIN = "run the same command again: what is fetched is kept"
_CONNECTIONS = 4
_BYTES_PER_REQUEST = 2**24
_BLOCK = 2**22
# A part that came damaged is fetched once more: the network may have done it.
_ATTEMPTS = 2
# Seconds in which a store that has much to do may send nothing.
_PATIENCE = 30.0


class PartialFile:
    """A file of which some parts are here.

    Args:
        info: The data set.
        file: One of its files, by its place on this machine.
        address: The data set's in the store.

    Attributes:
        parts: What each part must look like.
    """

    def __init__(self, info: DatasetInfo, file: Path, address: str) -> None:
        self._info, self._file, self._address = info, file, address
        self._list = file.with_name(f"{file.name}.parts")
        self._names, self.parts = parts_of(info, file.name)
        self._length = sum(part.bytes for part in self.parts)

    def here(self) -> list[int]:
        """Returns the numbers of the parts that are here."""
        listed: set[int] = set()
        if self._is_laid_out():
            with suppress(FileNotFoundError):
                listed = {int(each) for each in read_bounded(self._list).split() if each.isdigit()}
        return [each for each in range(len(self.parts)) if each in listed]

    def missing(self) -> list[int]:
        """Returns the numbers of the parts that are not here."""
        return sorted(set(range(len(self.parts))).difference(self.here()))

    def is_intact(self) -> bool:
        """Returns whether the parts that are here still are what they were when they came."""
        starts = starts_of(self.parts)
        with self._file.open("rb") as opened:
            return all(
                _checksum(opened, starts[each], self.parts[each].bytes) == self.parts[each].crc32
                for each in self.here()
            )

    def fetch(self, numbers: Sequence[int], count: Callable[[int], None]) -> None:
        """Fetches parts, several at a time.

        Args:
            numbers: Which.
            count: Takes the bytes that have come, and as negative those that came in vain.

        Raises:
            UserError: A part is missing or damaged, or the store does not answer.
            OSError: The disk fails.
        """
        store, root = open_store(self._address, seconds_without_answer=_PATIENCE)
        if not self._is_laid_out():
            self._list.unlink(missing_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(descriptor, self._length)
            target = _Target(descriptor, count, threading.Event())
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                running = [pool.submit(self._fetch, each, store, root, target) for each in numbers]
                try:
                    done, _ = wait(running, return_when=FIRST_EXCEPTION)
                    for each in done:
                        each.result()
                finally:
                    target.stop.set()
                    pool.shutdown(cancel_futures=True)
        finally:
            os.close(descriptor)

    def _is_laid_out(self) -> bool:
        return self._file.exists() and self._file.stat().st_size == self._length

    def _fetch(self, number: int, store: stores.FileSystem, root: str, target: _Target) -> None:
        part = _Part(
            opened=partial(store.open_input_file, f"{root}/{self._names[number]}"),
            address=join(self._address, self._names[number]),
            wanted=self.parts[number],
            start=starts_of(self.parts)[number],
        )
        for _ in range(_ATTEMPTS):
            problem = part.copy(target)
            if not problem:
                os.fsync(target.descriptor)
                append_line(self._list, str(number).encode())
            if not problem or target.stop.is_set():
                return
        raise UserError(
            f"{part.address} is {problem}; prepare the data set again: "
            f"{self._info.command(self._address)}"
        )


@dataclass(frozen=True)
class _Target:
    """Where parts go.

    Attributes:
        descriptor: Of the file that they belong to.
        count: As for `PartialFile.fetch`.
        stop: Nobody waits for them any more.
    """

    descriptor: int
    count: Callable[[int], None]
    stop: threading.Event


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part on its way.

    Attributes:
        opened: Opens it in the store.
        address: There.
        wanted: What it must look like.
        start: Its first byte in the file.
    """

    opened: Callable[[], pa.NativeFile]
    address: str
    wanted: StoredFile
    start: int

    def copy(self, target: _Target) -> str:
        """Copies it to its place; returns what is wrong with it, empty if nothing is."""
        if self.wanted.bytes == 0:
            return ""
        checksum, position = 0, 0
        try:
            with patiently(self.opened, self.address, AGAIN) as source:
                size = source.size()
                while size == self.wanted.bytes and position < size and not target.stop.is_set():
                    piece = patiently(
                        partial(source.read_at, min(_BYTES_PER_REQUEST, size - position), position),
                        self.address,
                        AGAIN,
                    )
                    if not piece:
                        break
                    _write(target.descriptor, piece, self.start + position)
                    checksum = zlib.crc32(piece, checksum)
                    position += len(piece)
                    target.count(len(piece))
        except FileNotFoundError:
            target.count(-position)
            return "missing"
        if (position, checksum) == (self.wanted.bytes, self.wanted.crc32):
            return ""
        target.count(-position)
        if size != self.wanted.bytes:
            return f"damaged: {size} bytes instead of {self.wanted.bytes}"
        return "damaged: its checksum is wrong"


def _checksum(opened: BinaryIO, start: int, length: int) -> int:
    """Returns the CRC-32 of a piece of a file."""
    opened.seek(start)
    checksum = 0
    while length > 0 and (block := opened.read(min(length, _BLOCK))):
        checksum = zlib.crc32(block, checksum)
        length -= len(block)
    return checksum


def _write(descriptor: int, piece: bytes, position: int) -> None:
    left = memoryview(piece)
    while left:
        written = os.pwrite(descriptor, left, position)
        left, position = left[written:], position + written
