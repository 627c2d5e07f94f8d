"""Sending a data set to an object store, in parts and while it is made.

A few parts at a time are on this machine. `unfinished.json` in the store says which are there, so
that a command that is run again after it was killed sends the others alone. The images are gone
through again: that their parts are the same is seen, not believed.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pyarrow.fs as stores

from dynat_ray.data.info import DESCRIPTION, DatasetInfo, StoredFile, describe_file
from dynat_ray.data.stored_parts import UNFINISHED, joined, part_names
from dynat_ray.errors import UserError
from dynat_ray.object_store import open_store, patiently

_PART_BYTES = 2**27
_CONNECTIONS = 2
# On this machine at once, besides the one that is written.
_MOST_WAITING = 3
_AGAIN = "run the same command again: what was sent is not sent again"
_OURS = re.compile(r"\w+-\d{5,}-of-\d{5,}\.(beton|safetensors)")
_BLOCK = 2**22
# Seconds in which a store that has much to do may take or send nothing.
_PATIENCE = 30.0


def bytes_per_part() -> int:
    """Returns about how many bytes a part has."""
    return _PART_BYTES


class PartSender:
    """Sends the parts of a data set to where it goes.

    Args:
        address: Of the data set.

    Attributes:
        parts: What is sent, by file.

    Raises:
        UserError: Something else is there, or the store does not answer.
    """

    def __init__(self, address: str) -> None:
        self.parts: dict[str, list[StoredFile]] = {}
        self._address = address
        self._store, self._root = open_store(address, seconds_without_answer=_PATIENCE)
        sizes = self._look()
        self._is_set = DESCRIPTION in sizes
        if sizes and not {DESCRIPTION, UNFINISHED} & sizes.keys():
            raise UserError(
                f"{address} has other objects, such as {min(sizes)}, and no data set; give another "
                "--out"
            )
        # A set that is complete is made anew as a whole: some of it may be damaged.
        resumes = UNFINISHED in sizes and not self._is_set
        sent = self._read_unfinished() if resumes else {}
        self._sent = {name: part for name, part in sent.items() if sizes.get(name) == part.bytes}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_CONNECTIONS)
        self._waiting: deque[Future[None]] = deque()

    def send(self, file: Path, name: str, part: StoredFile) -> None:
        """Sends a file as an object, and removes it; waits if many are on their way.

        Raises:
            UserError: The store does not take this one, or one before it.
        """
        if self._sent.get(name) == part:
            file.unlink()
            return
        self._waiting.append(self._pool.submit(self._send_part, file, name, part))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft().result()

    def send_file(self, file: Path) -> None:
        """Sends a whole file in parts, and removes it."""
        length = file.stat().st_size
        names = part_names(file.name, max(1, -(-length // _PART_BYTES)))
        self.parts[file.name] = []
        with file.open("rb") as opened:
            for name in names:
                cut = file.with_name(name)
                with cut.open("wb") as written:
                    left = _PART_BYTES
                    while left and (block := opened.read(min(left, _BLOCK))):
                        written.write(block)
                        left -= len(block)
                part = describe_file(cut)
                self.parts[file.name].append(part)
                self.send(cut, name, part)
        file.unlink()

    def finish(self, folder: Path, info: DatasetInfo) -> None:
        """Sends what is left in a folder, and `dataset.json` last; then the data set is there.

        Args:
            folder: Its other files.
            info: What it is; takes its files and parts from here.
        """
        for waiting in self._waiting:
            waiting.result()
        for file in sorted(folder.iterdir()):
            self._send(file, file.name)
        info.parts = self.parts
        info.files = {name: joined(parts) for name, parts in self.parts.items()}
        info.save(folder)
        self._send(folder / DESCRIPTION, DESCRIPTION)
        names = {
            each for file, parts in self.parts.items() for each in part_names(file, len(parts))
        }
        old = {each for each in self._look() if _OURS.fullmatch(each)} - names
        for name in (UNFINISHED, *sorted(old)):
            with suppress(OSError):  # The data set does not name them.
                self._store.delete_file(f"{self._root}/{name}")

    def close(self) -> None:
        """Waits for what is being sent; the rest is not."""
        self._pool.shutdown(cancel_futures=True)

    def _send_part(self, file: Path, name: str, part: StoredFile) -> None:
        self._begin()
        self._send(file, name)
        file.unlink()
        with self._lock:
            self._sent[name] = part
            self._write_unfinished()

    def _begin(self) -> None:
        """Takes the data set away that is there, before a part of it is replaced."""
        with self._lock:
            if not self._is_set:
                return
            self._write_unfinished()
            path = f"{self._root}/{DESCRIPTION}"
            patiently(lambda: self._store.delete_file(path), self._address, _AGAIN)
            self._is_set = False

    def _write_unfinished(self) -> None:
        text = json.dumps({name: asdict(part) for name, part in self._sent.items()}).encode()

        def write() -> None:
            with self._store.open_output_stream(f"{self._root}/{UNFINISHED}") as opened:
                opened.write(text)

        patiently(write, self._address, _AGAIN)

    def _read_unfinished(self) -> dict[str, StoredFile]:
        """Returns what an earlier command has sent; nothing if that is not said as it should be."""

        def read() -> bytes:
            with self._store.open_input_file(f"{self._root}/{UNFINISHED}") as opened:
                return opened.read()  # type: ignore[no-any-return]

        try:
            found = json.loads(patiently(read, self._address, _AGAIN))
            return {str(name): StoredFile(**part) for name, part in found.items()}
        except (ValueError, TypeError, AttributeError, FileNotFoundError):
            return {}

    def _send(self, file: Path, name: str) -> None:
        path, size = f"{self._root}/{name}", file.stat().st_size

        def send() -> None:
            # Closed by hand: `copy_files` keeps what goes wrong there to itself.
            with file.open("rb") as source, self._store.open_output_stream(path) as target:
                shutil.copyfileobj(source, target, _BLOCK)
            # Arrow ends an upload that fails as it ends one that succeeds.
            if (arrived := self._store.get_file_info(path).size) != size:
                raise OSError(f"{arrived} of {size} bytes of {name} arrived")

        patiently(send, self._address, _AGAIN)

    def _look(self) -> dict[str, int]:
        """Returns the sizes of the objects that are there, by name."""
        selector = stores.FileSelector(self._root, allow_not_found=True)
        found = patiently(lambda: self._store.get_file_info(selector), self._address, _AGAIN)
        return {each.base_name: each.size for each in found if each.is_file}


class CutFile:
    """A file that is sent in parts while it is written; its beginning goes last.

    Args:
        sender: Takes the parts.
        file: Where the whole file would be.
        count: Parts that there will be, with that of the beginning.
    """

    def __init__(self, sender: PartSender, file: Path, count: int) -> None:
        self._sender, self._file = sender, file
        self._names = part_names(file.name, count)
        self._parts: list[StoredFile] = []
        self._start = self._checksum = 0
        self._open_next()

    def begin(self, start: int) -> None:
        self._start = start

    def write(self, data: bytes | memoryview) -> None:
        self._opened.write(data)
        self._checksum = zlib.crc32(data, self._checksum)

    def cut(self) -> None:
        self._end_part()
        self._open_next()

    def close(self, head: bytes) -> None:
        self._end_part()
        assert len(self._parts) + 1 == len(self._names)
        first = self._file.with_name(self._names[0])
        first.write_bytes(head + bytes(self._start - len(head)))
        part = describe_file(first)
        self._sender.send(first, first.name, part)
        self._sender.parts[self._file.name] = [part, *self._parts]

    def _open_next(self) -> None:
        self._opened = self._file.with_name(self._names[len(self._parts) + 1]).open("wb")
        self._checksum = 0

    def _end_part(self) -> None:
        with self._opened as opened:
            part = StoredFile(bytes=opened.tell(), crc32=self._checksum)
        self._parts.append(part)
        path = Path(opened.name)
        self._sender.send(path, path.name, part)
