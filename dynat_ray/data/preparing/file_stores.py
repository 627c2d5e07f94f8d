"""Image files by name, in a folder or packed out of an archive."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing.archive_links import ArchiveLink, ArchiveTree
from dynat_ray.data.preparing.linked_tree import Entry, Found, Kind, walk
from dynat_ray.errors import UserError

_HIDDEN = "hidden files and folders"
_NO_WAY = "links of the archive that lead out of it or to nothing"
_OTHER_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class FileStore(Protocol):
    """Files that can be read in any order, from several threads.

    Attributes:
        shown: What to call the whole in errors.
        root: Where its folder lies.
        names: Paths of all files relative to the root, hidden ones left out.
        real: Where those lie that links lead to, by their path.
        left_out: What is in the whole, but not among the names.
    """

    shown: str
    root: PurePosixPath
    names: list[PurePosixPath]
    real: dict[PurePosixPath, PurePosixPath]
    left_out: Tally

    def open(self, name: PurePosixPath) -> BinaryIO:
        """Opens a file for reading."""


def find_file(store: FileStore, name: str) -> PurePosixPath | None:
    """Returns the file of that name that lies highest, wherever in the store it is."""
    found = [path for path in store.names if path.name == name]
    return min(found, key=lambda path: (len(path.parts), path), default=None)


class FolderFiles:
    """The files of a folder on disk, links followed."""

    def __init__(self, root: Path) -> None:
        """Lists the files below `root`."""
        self.shown = str(root)
        self.root = PurePosixPath(os.path.realpath(root))
        self.names: list[PurePosixPath] = []
        self.real: dict[PurePosixPath, PurePosixPath] = {}
        self.left_out = Tally()
        self._problems: dict[PurePosixPath, str] = {}
        for found in walk(_Disk(), self.root, self.shown):
            if not isinstance(found, Found):
                self.left_out.add(_HIDDEN, str(found))
                continue
            self.names.append(found.path)
            if found.problem:
                self._problems[found.path] = found.problem
            if found.real:
                self.real[found.path] = found.real

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`. A pipe or a device, which may never end, is no file."""
        if problem := self._problems.get(name):
            raise OSError(errno.EINVAL, problem)
        return open_regular(self.root / name)


class PackedFiles:
    """Files one after the other in one file: many small ones cost minutes on some disks."""

    def __init__(self, shown: str, packed: Path) -> None:
        """Starts an empty store in the file `packed`."""
        self.shown = shown
        self.root = PurePosixPath()
        self.names: list[PurePosixPath] = []
        self.real: dict[PurePosixPath, PurePosixPath] = {}
        self.left_out = Tally()
        self._places: dict[PurePosixPath, tuple[int, int]] = {}
        self._problems: dict[PurePosixPath, str] = {}
        self._links: dict[PurePosixPath, ArchiveLink] = {}
        self._file = packed.open("w+b", buffering=0)
        self._end = 0

    def __contains__(self, name: PurePosixPath) -> bool:
        return name in self._places or name in self._problems or name in self._links

    def free_bytes(self) -> int:
        """Returns how much room is left on its disk."""
        return shutil.disk_usage(self._file.fileno()).free

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

    def add_other(self, name: PurePosixPath, problem: str) -> None:
        """Adds what can't hold an image; `problem` says what it is."""
        self.names.append(name)
        self._problems[name] = problem

    def add_link(self, name: PurePosixPath, link: ArchiveLink) -> None:
        """Adds a link; where it leads is looked up by `follow_links`."""
        self._links[name] = link

    def hide(self, name: PurePosixPath) -> None:
        """Notes a file that is not wanted."""
        self.left_out.add(_HIDDEN, str(name))

    def follow_links(self, most: int) -> int:
        """Adds what links lead to, once all files are there.

        A link to a file is a second name of it, hard or symbolic: archives have both for one
        thing. A link to a folder is followed as on a disk.

        Args:
            most: Files that there may be with those.

        Returns:
            The bytes of the files that got another name, each time.

        Raises:
            UserError: A link leads into a folder above, or there are more files.
        """
        if not self._links:
            return 0
        tree = ArchiveTree(self._places.keys() | self._problems.keys(), self._links)
        copied = 0
        folders = False
        for name, link in sorted(self._links.items()):
            real, kind, _ = tree.follow(name)
            if kind == "file" and real in self._places:
                self._places[name] = self._places[real]
                self.names.append(name)
                tree.add_file(name)
                copied += self._places[real][1]
            elif kind == "folder":
                folders = True
            else:
                self.left_out.add(_NO_WAY, f"{name} -> {link.target}")
        return copied + (self._walk(tree, most) if folders else 0)

    def open(self, name: PurePosixPath) -> BinaryIO:
        """See `FileStore`."""
        if problem := self._problems.get(name):
            raise OSError(errno.EINVAL, problem)
        place = self._places[self.real.get(name, name)]
        return io.BufferedReader(_Part(self._file.fileno(), *place))

    def _walk(self, tree: ArchiveTree, most: int) -> int:
        """Adds what is reached through links to folders; returns its bytes."""
        copied = 0
        for found in walk(tree, self.root, self.shown):
            if not isinstance(found, Found) or found.real not in self._places:
                continue
            self.real[found.path] = found.real
            self.names.append(found.path)
            copied += self._places[found.real][1]
            if len(self.names) > most:
                raise UserError(f"archive {self.shown} names over {most:,} files through links")
        return copied


class _Disk:
    """The folders of this machine; a `Tree`."""

    def entries(self, folder: PurePosixPath) -> list[Entry]:
        try:
            with os.scandir(folder) as found:
                return [Entry(each.name, *_kind_of(each)) for each in found]
        except OSError as error:
            raise UserError(f"cannot list the folder {folder}: {error.strerror}") from None

    def follow(self, link: PurePosixPath) -> tuple[PurePosixPath, Kind, str]:
        real = PurePosixPath(os.path.realpath(link))
        try:
            mode = os.stat(real).st_mode
        except OSError as error:
            return real, "other", f"its link leads nowhere: {error.strerror}"
        if stat.S_ISDIR(mode):
            return real, "folder", ""
        problem = other_kind(mode)
        return real, "other" if problem else "file", problem


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


def open_regular(path: PurePosixPath) -> BinaryIO:
    """Opens a file; a pipe or a device is an `OSError`."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if problem := other_kind(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, problem)
    return os.fdopen(file, "rb")


def other_kind(mode: int) -> str:
    """Returns what a file of this mode is instead of a regular one; empty if it is one."""
    if stat.S_ISREG(mode):
        return ""
    return f"it is {_OTHER_KINDS.get(stat.S_IFMT(mode), 'no regular file')}"


def _kind_of(entry: os.DirEntry[str]) -> tuple[Kind, str]:
    if entry.is_symlink():
        return "link", ""
    if entry.is_dir(follow_symlinks=False):
        return "folder", ""
    if entry.is_file(follow_symlinks=False):
        return "file", ""
    return "other", other_kind(entry.stat(follow_symlinks=False).st_mode)
