"""Atomic writes: a file is there complete, or as it was before, also after the power failed.

Everything that the package leaves behind is written here. A new file has a name that nobody could
know before and is made by this process alone; it is on the disk before it takes its place; and it
takes the place of a link instead of following it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# What is being written; a kill leaves it behind.
_PREFIX, _SUFFIX = ".dynat-ray-", ".tmp"
_STALE_SECONDS = 3600.0
# Only a new file, and never what a link leads to.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe that somebody has put there must not make its writer wait.
_OLD = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# What file systems answer that can't bring folders to the disk, or swap two names.
_CAN_NOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES)
_NOT_ALONE = "it is a link to another file, or no file at all"
_AT_CURRENT_FOLDER, _RENAME_EXCHANGE = -100, 2


@contextmanager
def atomic_write(file: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Gives a file to write, which takes the place of `file` when it is complete.

    Whoever reads meanwhile, or after a full disk, a kill or a power failure, finds the one before.

    Args:
        file: To replace; a link is replaced as well, and not followed.
        mode: Permissions, from which the umask takes.

    Raises:
        OSError: It can't be written, or somebody replaced it while it was.
    """
    _refuse_device(file)
    remove_stale(file.parent)
    partial = unused_name(file.parent)
    try:
        descriptor = os.open(partial, _NEW, mode)
        try:
            yield partial
            if not os.path.samestat(os.lstat(partial), os.fstat(descriptor)):
                raise OSError(errno.ESTALE, "it was replaced while it was written", str(partial))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, file)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError) and str(error.filename) == str(partial):
            # The user never hears of the other name.
            error.filename, error.filename2 = str(file), None
        raise
    sync_folder(file.parent)


def atomic_write_text(file: Path, text: str) -> None:
    """Writes `text`, in UTF-8."""
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(file: Path, line: bytes) -> bool:
    """Adds a line to the end of a file; it is on the disk when this returns.

    Several processes may do so at once.

    Args:
        file: It is made if there is none. If its last line was cut, the new one still is a line of
            its own.
        line: Without its line break.

    Returns:
        False, and nothing is written, where the file is not this folder's alone, or not to be
        written: a link, one with a second name elsewhere, a pipe.

    Raises:
        OSError: The disk is full or fails; the file is as it was before.
    """
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | _OLD, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            return False
        raise
    try:
        if not _is_alone(descriptor):
            return False
        size = os.fstat(descriptor).st_size
        cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        try:
            left = memoryview((b"\n" if cut else b"") + line + b"\n")
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if size == 0:
        sync_folder(file.parent)
    return True


def open_to_append(file: Path) -> IO[bytes]:
    """Opens a file to read and to append to; makes it if there is none.

    Raises:
        OSError: It can't be opened; also if it is a link, or has a second name elsewhere.
    """
    if os.path.islink(file):
        raise OSError(errno.ELOOP, _NOT_ALONE, str(file))
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | _OLD, 0o666)
    if not _is_alone(descriptor):
        os.close(descriptor)
        raise OSError(errno.ELOOP, _NOT_ALONE, str(file))
    return os.fdopen(descriptor, "a+b")


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Gives a new folder to fill, which takes the place of `folder`; see `publish_folder`."""
    remove_stale(folder.parent)
    new = unused_name(folder.parent)
    os.mkdir(new)
    try:
        yield new
        publish_folder(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def publish_folder(new: Path, folder: Path) -> None:
    """Puts a folder in the place of another, without a moment in which there is none.

    Both names are swapped at once. Where the file system can't (NFS), the files are replaced one
    by one, each at once, in the order of their names.

    Args:
        new: On the same file system, of plain files.
        folder: Where to; what is there goes, a link as such.

    Raises:
        OSError: It can't be written.
    """
    for file in sorted(new.iterdir()):
        _sync(file, os.O_RDONLY | _OLD)
    sync_folder(new)
    if not os.path.lexists(folder):
        os.rename(new, folder)
    elif not _exchange(new, folder):
        _replace_files(new, folder)
    sync_folder(folder.parent)
    if os.path.islink(new):
        os.unlink(new)
    else:
        shutil.rmtree(new, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, on the disk when this returns; one that is there stays."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the file system does that at all."""
    try:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _CAN_NOT:
            raise


def unused_name(parent: Path) -> Path:
    """Returns a name for what is being written, which nobody could know before."""
    return parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


def is_unfinished(name: str) -> bool:
    """Returns whether a file or folder of this name is being written, or was when it broke off."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def remove_stale(folder: Path) -> None:
    """Removes what writers left unfinished in a folder long ago."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not is_unfinished(entry.name):
                continue
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime < _STALE_SECONDS:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _refuse_device(file: Path) -> None:
    """Raises `OSError` rather than put a file in the place of something like `/dev/null`."""
    with suppress(FileNotFoundError):
        kind = os.lstat(file).st_mode
        if stat.S_ISCHR(kind) or stat.S_ISBLK(kind):
            raise OSError(errno.EINVAL, "it is a device and no file", str(file))


def _is_alone(descriptor: int) -> bool:
    """Returns whether an open file is a plain one with no second name."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names at once; False where system or file system can't."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    if swap(_AT_CURRENT_FOLDER, paths[0], _AT_CURRENT_FOLDER, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CAN_NOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _replace_files(new: Path, folder: Path) -> None:
    """Moves all files of one folder into another, and removes what else is there."""
    if os.path.islink(folder) or not os.path.isdir(folder):
        os.unlink(folder)
        os.rename(new, folder)
        return
    names = sorted(file.name for file in new.iterdir())
    for name in names:
        os.replace(new / name, folder / name)
    sync_folder(folder)
    for other in folder.iterdir():
        if other.name not in names and not other.is_dir():
            os.unlink(other)
