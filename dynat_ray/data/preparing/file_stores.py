"""Image files by name, in a folder or packed out of an archive."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from dynat_ray.errors import UserError

_NOT_IMAGES = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_MOST_FOLDERS = 2**20


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
        for visited, (folder, inner, files) in enumerate(os.walk(root, followlinks=True)):
            if visited == _MOST_FOLDERS:
                raise UserError(
                    f"{root} has over {_MOST_FOLDERS:,} folders; do its links go round?"
                )
            here = Path(folder)
            inner[:] = [name for name in inner if not (is_hidden(name) or _leads_back(here, name))]
            relative = PurePosixPath(here.relative_to(root).as_posix())
            self.names += [relative / name for name in files if not is_hidden(name)]

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`. A pipe or a device, which may never end, is no file."""
        file = os.open(self._root / name, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(errno.EINVAL, "not a regular file")
        return os.fdopen(file, "rb")


class PackedFiles:
    """Files one after the other in one file: many small ones cost minutes on some disks."""

    def __init__(self, shown: str, packed: Path) -> None:
        """Starts an empty store in the file `packed`."""
        self.shown = shown
        self.names: list[PurePosixPath] = []
        self._places: dict[PurePosixPath, tuple[int, int]] = {}
        self._file = packed.open("w+b", buffering=0)
        self._end = 0

    def __contains__(self, name: PurePosixPath) -> bool:
        return name in self._places

    def add(self, name: PurePosixPath, pieces: Iterable[bytes]) -> int:
        """Appends a file that is not there yet; returns its bytes."""
        start = self._end
        for piece in pieces:
            remaining = memoryview(piece)
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
            self._end += len(piece)
        self.names.append(name)
        self._places[name] = (start, self._end - start)
        return self._end - start

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`."""
        return io.BufferedReader(_Part(self._file.fileno(), *self._places[name]))


class _Part(io.RawIOBase):
    """A part of a file, which several threads read: one image may be larger than the memory."""

    def __init__(self, file: int, start: int, length: int) -> None:
        self._file, self._start, self._length = file, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, target: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, base + target)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        count = max(0, min(len(buffer), self._length - self._position))
        data = os.pread(self._file, count, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder name is none of the user's images."""
    return name.startswith(".") or name in _NOT_IMAGES


def _leads_back(folder: Path, name: str) -> bool:
    """Returns whether an inner folder is a link to one that it lies in: such a walk never ends."""
    link = folder / name
    return link.is_symlink() and os.path.realpath(link) in map(
        os.path.realpath, (folder, *folder.parents)
    )
