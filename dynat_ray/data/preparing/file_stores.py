"""Image files by name, in a folder or packed out of an archive."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

_NOT_IMAGES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


class FileStore(Protocol):
    """Files that can be read in any order, from several threads.

    Attributes:
        shown: What to call the whole in errors.
        names: Paths of all files relative to the root, hidden ones left out.
    """

    shown: str
    names: list[PurePosixPath]

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Opens a file for reading."""


class FolderFiles:
    """The files of a folder on disk, links followed."""

    def __init__(self, root: Path) -> None:
        """Lists the files below `root`."""
        self.shown = str(root)
        self._root = root
        self.names: list[PurePosixPath] = []
        for folder, inner, files in os.walk(root, followlinks=True):
            inner[:] = [name for name in inner if not is_hidden(name)]
            relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
            self.names += [relative / name for name in files if not is_hidden(name)]

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`."""
        return (self._root / name).open("rb")


class PackedFiles:
    """Files one after the other in one file: many small ones cost minutes on some disks."""

    def __init__(self, shown: str, packed: Path) -> None:
        """Starts an empty store in the file `packed`."""
        self.shown = shown
        self.names: list[PurePosixPath] = []
        self._places: dict[PurePosixPath, tuple[int, int]] = {}
        self._file = packed.open("w+b", buffering=0)
        self._end = 0

    def add(self, name: PurePosixPath, data: bytes) -> None:
        """Appends a file; one of the same name is replaced."""
        if name not in self._places:
            self.names.append(name)
        self._places[name] = (self._end, len(data))
        self._end += len(data)
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[self._file.write(remaining) :]

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`."""
        start, length = self._places[name]
        return io.BytesIO(os.pread(self._file.fileno(), length, start))


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder name is none of the user's images."""
    return name.startswith(".") or name in _NOT_IMAGES
