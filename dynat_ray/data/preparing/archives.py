"""Unpacking archives that may be damaged or hostile."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from dynat_ray.data.preparing.archive_links import ArchiveLink
from dynat_ray.data.preparing.bounded_reading import PIECE, MeteredReader, Suspicious, open_tar
from dynat_ray.data.preparing.file_stores import PackedFiles, other_kind
from dynat_ray.data.preparing.linked_tree import is_hidden
from dynat_ray.errors import UserError

LARGEST_MEMBER = 2**30
"""Bytes beyond which the declared size of an image inside an archive is taken for an attack."""
LARGEST_RATIO = 500
"""Times its own size to which an archive may unpack: black-and-white sprites reach 115."""
RATIO_COUNTS_FROM = 2**26
"""Unpacked bytes below which the ratio does not matter: small blank images reach any."""
MOST_MEMBERS = 2**21
"""Files and folders in an archive; ImageNet has 1.3 million."""
LONGEST_NAME = 1024
"""Characters of a path inside an archive."""

_TOP = PurePosixPath()
_LONGEST_TABLE = 2**28  # Bytes of a zip's table of contents, which is read at once.
_UNIX = 3  # Where a zip's member is from, if it has a Unix file mode.
_TAR_KINDS = {
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}


def unpack(archive: Path, packed: Path) -> PackedFiles:
    """Reads the files of an archive into a new store.

    Args:
        archive: See `unpack_into`.
        packed: File to write their contents to.

    Raises:
        UserError: As `unpack_into`.
    """
    files = PackedFiles(str(archive), packed)
    unpack_into(archive, files)
    return files


def unpack_into(archive: Path, files: PackedFiles, below: PurePosixPath = _TOP) -> None:
    """Adds the files of a tar (also .gz, .bz2, .xz) or zip archive to a store.

    Links are followed inside of the archive; archives in it are not. Nothing but the store is ever
    written, whatever the archive calls its files, nothing else on the disk is read, and memory is
    bounded by the names of the files, whatever sizes they declare.

    Args:
        archive: The archive.
        files: The store.
        below: Folder of the store that they are put into.

    Raises:
        UserError: It is no archive, is damaged, names unsafe paths, or declares more data than is
            free on the disk or than such an archive holds.
    """
    with _readable(archive):
        target = _Target(archive, files, below)
        # Not `zipfile.is_zipfile`: a tar file that ends with a zip file is one to it.
        with archive.open("rb") as file:
            is_zip = file.read(4) in (b"PK\3\4", b"PK\5\6")
        if is_zip:
            _unpack_zip(archive, target)
        else:
            _unpack_tar(archive, target)
        target.follow_links()


def unpack_member(archive: Path, member: str, target: Path) -> bool:
    """Writes one named file of a zip archive to `target`; returns whether there is such a file.

    Raises:
        UserError: It declares more data than is free on the disk, or is damaged.
    """
    with _readable(archive), _opened_zip(archive) as (opened, reader):
        if member not in opened.namelist():
            return False
        info = opened.getinfo(member)
        _require_ratio(info.file_size, _most_unpacked(archive))
        _require_space(archive, info.file_size, shutil.disk_usage(target.parent).free)
        with target.open("wb") as file:
            for piece in _zip_pieces(archive, opened, reader, info):
                file.write(piece)
        return True


class _Target:
    """Where the files of an archive go; refuses what is unsafe or does not fit."""

    def __init__(self, archive: Path, files: PackedFiles, below: PurePosixPath) -> None:
        self.files = files
        self._archive, self._below = archive, below
        self._most = _most_unpacked(archive)
        self._free = files.free_bytes()
        self._members = self._bytes = 0

    def accept(self, name: str, size: int) -> PurePosixPath | None:
        """Returns the clean path of a file to take, None for one to leave out."""
        path = _clean(name)
        if not path.parts or ".." in path.parts or path.is_absolute() or "\0" in name:
            raise UserError(f"archive {self._archive} is unsafe: it names the path '{name}'")
        if any(is_hidden(part) for part in path.parts):
            self.files.hide(path)
            return None
        path = self._below / path
        if path in self.files:
            raise Suspicious(f"holds the file '{name}' twice; unpack it yourself")
        if not 0 <= size <= LARGEST_MEMBER:
            raise UserError(f"archive {self._archive}: '{name}' declares {size:,} bytes")
        self._bytes += size
        _require_ratio(self._bytes, self._most)
        _require_space(self._archive, self._bytes, self._free)
        return path

    def count(self) -> None:
        """Counts a file, folder or whatever else the archive names."""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise Suspicious(f"holds over {MOST_MEMBERS:,} files; unpack it yourself")

    def add(self, path: PurePosixPath, size: int, pieces: Iterator[bytes]) -> None:
        """Writes the contents of a file, which must have as many bytes as were declared."""
        if self.files.add(path, pieces) != size:
            raise tarfile.ReadError(f"'{path}' is shorter than declared")

    def add_link(self, name: str, target: str, *, hard: bool = False) -> None:
        """Notes a link."""
        if path := self.accept(name, 0):
            self.files.add_link(path, ArchiveLink(_clean(target), hard))

    def follow_links(self) -> None:
        """Adds what the links lead to; its bytes count, though they take no room."""
        _require_ratio(self._bytes + self.files.follow_links(MOST_MEMBERS), self._most)


def _unpack_tar(archive: Path, target: _Target) -> None:
    with open_tar(archive, _most_unpacked(archive)) as reader:
        reader.allow(PIECE)
        try:
            opened = tarfile.TarFile(fileobj=reader)
        except tarfile.ReadError:
            kinds = ".tar, .tar.gz, .tar.xz or .zip"
            raise UserError(f"{archive} is neither a folder nor a {kinds}") from None
        end = 0
        while member := opened.next():
            target.count()
            if member.size < 0 or member.offset < end:
                raise tarfile.ReadError("a member lies before its predecessor")
            end = member.offset_data
            if member.issparse():
                raise Suspicious(f"holds the sparse file '{member.name}'; unpack it yourself")
            path = _accept(target, member)
            source = opened.extractfile(member) if path else None
            if path and source:
                reader.allow(member.size)
                target.add(path, member.size, _pieces(source))
            opened.members = []  # type: ignore[attr-defined]  # Else it remembers every file.
            if sum(map(len, opened.pax_headers.values())) > PIECE:
                raise Suspicious("has longer headers than image files need; unpack it yourself")
            reader.allow(PIECE)


def _accept(target: _Target, member: tarfile.TarInfo) -> PurePosixPath | None:
    """Returns the path of a regular file to take; all else is noted."""
    if member.isreg():
        return target.accept(member.name, member.size)
    if member.islnk() or member.issym():
        target.add_link(member.name, member.linkname, hard=member.islnk())
    elif not member.isdir() and (path := target.accept(member.name, 0)):
        target.files.add_other(path, other_kind(_TAR_KINDS.get(member.type, 0)))
    return None


def _unpack_zip(archive: Path, target: _Target) -> None:
    with _opened_zip(archive) as (opened, reader):
        for member in opened.infolist():
            target.count()
            kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == _UNIX else 0
            if kind == stat.S_IFDIR or member.filename.endswith(("/", "\\")):
                continue
            pieces = _zip_pieces(archive, opened, reader, member)
            if kind == stat.S_IFLNK:
                if member.file_size > LONGEST_NAME:
                    raise Suspicious("has a link that is longer than paths are; unpack it yourself")
                target.add_link(member.filename, b"".join(pieces).decode(errors="replace"))
            elif path := target.accept(member.filename, member.file_size):
                if kind in (0, stat.S_IFREG):
                    target.add(path, member.file_size, pieces)
                else:
                    target.files.add_other(path, other_kind(kind))


@contextmanager
def _opened_zip(archive: Path) -> Iterator[tuple[zipfile.ZipFile, MeteredReader]]:
    """Opens a zip archive, and what it reads from."""
    size = archive.stat().st_size
    with MeteredReader(archive.open("rb", buffering=0), most=size) as reader:
        # The end of the file, where a comment may stand, is read as well.
        reader.allow(min(_LONGEST_TABLE, size) + PIECE)
        with zipfile.ZipFile(reader) as opened:
            yield opened, reader


def _zip_pieces(
    archive: Path, opened: zipfile.ZipFile, reader: MeteredReader, member: zipfile.ZipInfo
) -> Iterator[bytes]:
    """Yields the contents of a member.

    Of all kinds of compression `zipfile` bounds what a piece of stored and deflated ones expands
    to, and only of them.
    """
    if member.flag_bits & 1:
        raise UserError(f"archive {archive} is encrypted; unpack it yourself")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        raise Suspicious(
            f"is compressed by {method}, which takes another program; unpack it yourself"
        )
    # A local header comes first, with a name and extra fields of up to 64 KiB each.
    reader.allow(member.compress_size + PIECE)
    with opened.open(member) as source:
        yield from _pieces(source)


def _clean(name: str) -> PurePosixPath:
    """Returns a path of an archive; some programs on Windows write it with backslashes."""
    if len(name) > LONGEST_NAME:
        raise Suspicious(f"names a path of {len(name):,} characters; unpack it yourself")
    return PurePosixPath(name.replace("\\", "/"))


def _pieces(source: IO[bytes]) -> Iterator[bytes]:
    while piece := source.read(PIECE):
        yield piece


def _most_unpacked(archive: Path) -> int:
    return max(RATIO_COUNTS_FROM, LARGEST_RATIO * archive.stat().st_size)


def _require_ratio(size: int, most: int) -> None:
    if size > most:
        raise Suspicious("unpacks to far more than its own size; unpack it yourself")


def _require_space(archive: Path, size: int, free: int) -> None:
    if size > free:
        raise UserError(
            f"archive {archive} unpacks to more than is free on the disk of --out; make room "
            "there, or give --out on another disk"
        )


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turns whatever a damaged or hostile archive raises into one sentence."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Suspicious as error:
        raise UserError(f"archive {archive} {error}") from None
    except Exception as error:  # Readers raise anything on damaged files.
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"archive {archive} is damaged ({error}); get a new copy") from None
