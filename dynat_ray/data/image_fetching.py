"""Fetching single images of a beton from an object store.

The store says nothing of a single image, and the CRC-32 of a part is of no use without all of it.
So what can be known is looked at: that the description of the data set stays as it was, which
`prepare` takes away before it replaces a part; that each part has its length, and its tag stays as
it was; that JPEG images begin and end as such; and that an image which was read before is the same.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.fs as stores
from numpy.typing import NDArray

from dynat_ray.bounded_file import read_bounded
from dynat_ray.data.beton_check import BetonTables
from dynat_ray.data.cache_room import make_room_to_spare
from dynat_ray.data.info import COPIED_FROM, DESCRIPTION, DatasetInfo, StoredFile
from dynat_ray.data.kept_images import KeptImages
from dynat_ray.data.stored_parts import parts_of, starts_of
from dynat_ray.errors import UserError
from dynat_ray.object_store import join, open_store, patiently, say_waiting

_AGAIN = "run the same command with --resume"
# What a store answers that has no such object, or a shorter one, in the place of an opened one.
_GONE = re.compile("NO_SUCH_KEY|RESOURCE_NOT_FOUND|HTTP (status|response code) (404|416)")
_JPEG = (b"\xff\xd8", b"\xff\xd9")
# What came damaged is fetched once more: the network may have done it.
_ATTEMPTS = 2
# A part is opened with a request of its own; many workers read a few images of each in an epoch.
_SECONDS_OPEN = 3600.0
_SECONDS_BETWEEN_LINES = 60.0


class Abandoned(Exception):
    """Nobody waits for the images any more."""


@dataclass
class _Part:
    """A part of the file in the store.

    Attributes:
        name: There.
        wanted: What it must look like.
        opened: It, once an image of it was read.
        until: When it is opened anew, so that its length and tag are looked at again.
        tag: What the store called its content when it was first opened.
        lock: Held while it is opened.
    """

    name: str
    wanted: StoredFile
    opened: pa.NativeFile | None = None
    until: float = 0.0
    tag: bytes | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class StoreImages:
    """The images of one beton in a store, of which some are on this machine.

    Args:
        info: The data set.
        file: Its `SPLIT.beton` on this machine, of which at least what is not pixels is there.
        tables: What it says of its images.
        parts_here: Numbers of the parts that were fetched as such.

    Attributes:
        starts: First byte of each image in the file, int64 `(N,)`.
        lengths: Bytes of each image, int64 `(N,)`.
        kept: Those on this machine.

    Raises:
        UserError: Another set is at the address by now, or the store does not answer.
    """

    def __init__(
        self, info: DatasetInfo, file: Path, tables: BetonTables, parts_here: list[int]
    ) -> None:
        self.starts, self.lengths = tables.starts.astype(np.int64), tables.lengths.astype(np.int64)
        self._info = info
        self._address = read_bounded(file.parent / COPIED_FROM).decode()
        self._description = (file.parent / DESCRIPTION).read_bytes()
        self._store, self._root = open_store(self._address)
        names, wanted = parts_of(info, file.name)
        self._parts = [_Part(*each) for each in zip(names, wanted, strict=True)]
        self._begins = np.array(starts_of(wanted), np.int64)
        self._lock = threading.Lock()
        self._said = -_SECONDS_BETWEEN_LINES
        self._seen = self._look(threading.Event())
        self.kept = KeptImages(file, self.starts, self.lengths, self._lie_in(parts_here))
        here = self.kept.here(np.arange(len(self.lengths)))
        make_room_to_spare(file.parent.parent, int(self.lengths[~here].sum()))

    def fetch(self, run: list[int], into: list[memoryview], stop: threading.Event) -> None:
        """Fetches images that lie near one another, in one request where they are in one part.

        Args:
            run: Which, in the order of the file.
            into: Takes the bytes of each.
            stop: Ends it, soon.

        Raises:
            UserError: One is not what it must be, or the store does not answer.
            Abandoned: `stop` was set.
        """
        left = dict(zip(run, into, strict=True))
        for _ in range(_ATTEMPTS):
            first = int(self.starts[min(left)])
            content = memoryview(self._read(first, self._end(max(left)) - first, stop))
            for index, target in list(left.items()):
                image = content[int(self.starts[index]) - first : self._end(index) - first]
                if self._is_sound(image) and self.kept.agrees(index, image):
                    target[:] = image
                    self.kept.keep(index, image)
                    del left[index]
            if not left:
                return
        part = self._parts[self._part_at(int(self.starts[min(left)]))]
        self._refuse(
            part,
            f"damaged or replaced: image {min(left)} is not what it must be (what it was, this "
            f"machine knows from {self.kept.table})",
            stop,
        )

    def require_unchanged(self, stop: threading.Event) -> None:
        """Raises `UserError` if the data set is no longer the one that was there at first.

        What was read of it before this call was of that one: the description goes before a part
        is replaced, and comes back last.
        """
        info = self._ask(lambda: self._store.get_file_info(f"{self._root}/{DESCRIPTION}"), stop)
        if (info.size, info.mtime_ns) != (self._seen.size, self._seen.mtime_ns):
            self._seen = self._look(stop)

    def _look(self, stop: threading.Event) -> stores.FileInfo:
        """Returns size and time of the description, once its content is what it was."""
        path = f"{self._root}/{DESCRIPTION}"

        def read() -> bytes:
            with self._store.open_input_file(path) as opened:
                return opened.read(len(self._description) + 1)  # type: ignore[no-any-return]

        info = self._ask(lambda: self._store.get_file_info(path), stop)
        try:
            same = info.is_file and self._ask(read, stop) == self._description
        except FileNotFoundError:
            same = False
        if not same:
            raise UserError(
                f"the data set {self._address} was prepared anew or removed since this command "
                "read it first; a run ends with the images that it began with: bring those back, "
                "or begin another run"
            )
        return info

    def _read(self, start: int, length: int, stop: threading.Event) -> bytes:
        """Returns bytes of the file, which may lie in several parts."""
        pieces = []
        while length > 0:
            number = self._part_at(start)
            part, offset = self._parts[number], start - int(self._begins[number])
            piece = self._read_part(part, offset, min(length, part.wanted.bytes - offset), stop)
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_part(self, part: _Part, offset: int, length: int, stop: threading.Event) -> bytes:
        try:
            opened = self._open(part, stop)
            piece: bytes = self._ask(partial(_read_at, opened, length, offset), stop)
        except FileNotFoundError:
            self._refuse(part, "missing, or shorter than it was", stop)
        if len(piece) != length:
            self._refuse(part, f"cut off {length - len(piece)} bytes too early", stop)
        return piece

    def _open(self, part: _Part, stop: threading.Event) -> pa.NativeFile:
        with part.lock:
            if part.opened is not None and time.monotonic() < part.until:
                return part.opened
            path = f"{self._root}/{part.name}"
            opened = self._ask(lambda: self._store.open_input_file(path), stop)
            if (size := opened.size()) != part.wanted.bytes:
                self._refuse(part, f"damaged: {size} bytes instead of {part.wanted.bytes}", stop)
            tag = (opened.metadata() or {}).get("ETag", b"")
            if part.tag is not None and tag != part.tag:
                self._refuse(part, "not what it was when this command began to read it", stop)
            part.opened, part.tag = opened, tag
            part.until = time.monotonic() + _SECONDS_OPEN
            return opened

    def _ask(self, ask: Callable[[], Any], stop: threading.Event) -> Any:
        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise Abandoned

        if stop.is_set():
            raise Abandoned
        return patiently(ask, self._address, _AGAIN, pause=pause, say=self._say_waiting)

    def _say_waiting(self, address: str) -> None:
        """Says it once for all the requests that a store leaves without an answer."""
        with self._lock:
            now = time.monotonic()
            if now - self._said < _SECONDS_BETWEEN_LINES:
                return
            self._said = now
        say_waiting(address)

    def _refuse(self, part: _Part, problem: str, stop: threading.Event) -> NoReturn:
        # All of it may have been replaced, which says more.
        self._look(stop)
        raise UserError(
            f"{join(self._address, part.name)} is {problem}; prepare the data set again: "
            f"{self._info.command(self._address)}"
        )

    def _is_sound(self, image: memoryview) -> bool:
        if self._info.storage == "raw":
            return True
        return (bytes(image[:2]), bytes(image[-2:])) == _JPEG

    def _lie_in(self, numbers: list[int]) -> NDArray[np.bool_]:
        """Returns which images lie in some of the parts as a whole, bool `(N,)`."""
        lacking = np.ones(len(self._parts), np.int64)
        lacking[numbers] = 0
        before = np.concatenate([[0], np.cumsum(lacking)])
        last = np.searchsorted(self._begins, self.starts + self.lengths, side="left") - 1
        first = np.searchsorted(self._begins, self.starts, side="right") - 1
        return before[last + 1] == before[first]  # type: ignore[no-any-return]

    def _part_at(self, position: int) -> int:
        return int(np.searchsorted(self._begins, position, side="right")) - 1

    def _end(self, index: int) -> int:
        return int(self.starts[index] + self.lengths[index])


def _read_at(opened: pa.NativeFile, length: int, offset: int) -> bytes:
    try:
        return opened.read_at(length, offset)  # type: ignore[no-any-return]
    except OSError as error:
        if _GONE.search(str(error)):
            raise FileNotFoundError from None
        raise
