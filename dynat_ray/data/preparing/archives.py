"""Unpacking archives that may be damaged or hostile."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from dynat_ray.data.preparing.file_stores import PackedFiles, is_hidden
from dynat_ray.errors import UserError

LARGEST_MEMBER = 2**30
"""Bytes beyond which the declared size of an image inside an archive is taken for an attack."""

_UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError),
    NotImplementedError,  # a kind of compression that Python does not know
)


def unpack(archive: Path, packed: Path) -> PackedFiles:
    """Reads the regular files of a tar (also .gz, .bz2, .xz) or zip archive.

    Links, devices and hidden files are left out. Nothing but `packed` is ever written, whatever
    the archive calls its files.

    Args:
        archive: The archive.
        packed: File to write their contents to.

    Raises:
        UserError: It is no archive, is damaged, names unsafe paths, or declares more data than is
            free on the disk.
    """
    target = _Target(archive, packed)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, target)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, target)
        else:
            raise UserError(f"{archive} is neither a folder nor a .tar, .tar.gz, .tar.xz or .zip")
    except _UNREADABLE as error:
        raise _unreadable(archive, error) from None
    return target.files


def unpack_member(archive: Path, member: str, target: Path) -> None:
    """Writes one named file of a zip archive to `target`.

    Raises:
        KeyError: The archive has no such member.
        UserError: It declares more data than is free on the disk, or is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(member)
            _require_space(archive, info.file_size, shutil.disk_usage(target.parent).free)
            with opened.open(info) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except _UNREADABLE as error:
        raise _unreadable(archive, error) from None


class _Target:
    """Where the files of an archive go; refuses what is unsafe or does not fit."""

    def __init__(self, archive: Path, packed: Path) -> None:
        self.files = PackedFiles(str(archive), packed)
        self._archive = archive
        self._free = shutil.disk_usage(packed.parent).free

    def accept(self, name: str, size: int) -> PurePosixPath | None:
        """Returns the clean path of a file to take, None for one to leave out."""
        path = PurePosixPath(name)
        if not path.parts or ".." in path.parts or path.is_absolute() or "\0" in name:
            raise UserError(f"archive {self._archive} is unsafe: it names the path '{name}'")
        if any(is_hidden(part) for part in path.parts):
            return None
        if size > LARGEST_MEMBER:
            raise UserError(f"archive {self._archive}: '{name}' declares {size:,} bytes")
        _require_space(self._archive, size, self._free)
        self._free -= size
        return path


def _unpack_tar(archive: Path, target: _Target) -> None:
    with tarfile.open(archive) as opened:
        for member in opened:
            path = target.accept(member.name, member.size) if member.isreg() else None
            source = opened.extractfile(member) if path else None
            if path and source:
                data = source.read()
                if len(data) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
                target.files.add(path, data)
            opened.members = []  # type: ignore[attr-defined]  # Else it remembers every file.


def _unpack_zip(archive: Path, target: _Target) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if member.flag_bits & 1:
                raise UserError(f"archive {archive} is encrypted; unpack it yourself")
            path = None if member.is_dir() else target.accept(member.filename, member.file_size)
            if path:
                target.files.add(path, opened.read(member))


def _require_space(archive: Path, size: int, free: int) -> None:
    if size > free:
        raise UserError(
            f"archive {archive} unpacks to more than is free on the disk of --out; make room "
            "there, or give --out on another disk"
        )


def _unreadable(archive: Path, error: Exception) -> UserError:
    if isinstance(error, NotImplementedError):
        return UserError(f"archive {archive} takes another program ({error}); unpack it yourself")
    return UserError(f"archive {archive} is damaged ({error}); get a new copy")
