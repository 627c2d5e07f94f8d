"""A folder that is mirrored in an object store (`s3://`, `gs://`).

Everything that writes a run works on a plain folder. Where the user wants the run in an object
store, that folder is a temporary one which is pushed there, by the command and by the first
worker, and pulled from there. Checkpoints are not part of it: Ray Train writes them to the store
itself, and a worker fetches the one it goes on from.

An object is there complete, or as it was before. Arrow ends an upload that fails as it ends one
that succeeds, so that half a file would take the place of a whole one; therefore each goes under a
name of its own first, and the store itself moves it when it is complete.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pyarrow.fs as stores

from dynat_ray.atomic_files import (
    atomic_write,
    atomic_write_text,
    is_unfinished,
    make_folder,
    unused_name,
)
from dynat_ray.errors import UserError
from dynat_ray.object_store import join, open_store, store_error
from dynat_ray.storage.checkpoint_names import CHECKPOINTS, checkpoint_order

# Holds the address of the store; it lies beside folders that are mirrored there.
_ADDRESS_FILE = ".mirror-address"
_LOCAL = stores.LocalFileSystem()
# An upload that is older was broken off; no file of a run takes that long.
_STALE_SECONDS = 24 * 3600.0
# Arrow's own 1 MiB makes 400 requests of a checkpoint of ResNet-50, on every node.
_BYTES_PER_REQUEST = 32 * 2**20

# A server that moves a large object copies it, and says nothing meanwhile.
_SECONDS_WITHOUT_ANSWER = 60.0

# Size and time of a file, here or there.
_Stamp = tuple[int, object]


def set_mirror_address(parent: Path, address: str) -> None:
    """Tells all processes of this machine that folders in `parent` are mirrored in a store.

    Args:
        parent: A folder for nothing else.
        address: Of its place in the store.
    """
    atomic_write_text(parent / _ADDRESS_FILE, address)


class Mirror:
    """A folder and its place in a store.

    Args:
        folder: On this machine.
        address: In the store.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self._store, self._root = open_store(
            address, seconds_without_answer=_SECONDS_WITHOUT_ANSWER
        )
        self._cleaned = False
        # As they were when both sides were last the same.
        self._here: dict[str, _Stamp] = {}
        self._there: dict[str, _Stamp] = {}

    @classmethod
    def of(cls, folder: Path) -> Mirror | None:
        """Returns the mirror of a folder below a `set_mirror_address`; None for any other."""
        for parent in folder.parents:
            if (parent / _ADDRESS_FILE).is_file():
                address = (parent / _ADDRESS_FILE).read_text()
                return cls(folder, join(address, folder.relative_to(parent).as_posix()))
        return None

    def pull(self, *, only: tuple[str, ...] = (), leave: tuple[str, ...] = ()) -> None:
        """Fetches what is new in the store.

        Args:
            only: Names of files; empty: all.
            leave: Names of folders to leave there, besides checkpoints.

        Raises:
            UserError: The store does not answer.
        """
        for info in self._list(self._root, recursive=not only):
            name = info.path[len(self._root) + 1 :]
            stamp = (info.size, info.mtime_ns)
            if (
                not info.is_file
                or not _is_chosen(name, only, leave)
                or self._there.get(name) == stamp
            ):
                continue
            target = self.folder / name
            make_folder(target.parent)
            with atomic_write(target) as partial:
                self._fetch(info.path, partial)
            self._there[name], self._here[name] = stamp, _stamp(target)

    def push(self, *, only: tuple[str, ...] = ()) -> None:
        """Sends what is new in the folder.

        Args:
            only: Names of files; empty: all.

        Raises:
            UserError: The store does not take it; what it held before is untouched.
        """
        self._remove_stale()
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if (
                file.is_symlink()
                or not file.is_file()
                or not _is_chosen(name, only)
                or self._here.get(name) == (before := _stamp(file))
            ):
                continue
            self._there[name] = self._send(file, f"{self._root}/{name}")
            self._here[name] = before

    def _send(self, file: Path, path: str) -> _Stamp:
        """Sends a file, which takes the place of what the store has under that path."""
        partial = unused_name(Path(path).parent).as_posix()
        size = file.stat().st_size
        try:
            try:
                # Threads bring a single file nothing, and Arrow's uploads may wait for them.
                stores.copy_files(
                    str(file),
                    partial,
                    source_filesystem=_LOCAL,
                    destination_filesystem=self._store,
                    use_threads=False,
                )
                sent = self._store.get_file_info(partial).size
                # Metrics may have grown by a line meanwhile.
                if sent is None or sent < size:
                    raise OSError(f"{sent} of {size} bytes of {file.name} arrived")
                self._store.move(partial, path)
            except BaseException:
                with suppress(OSError):
                    self._store.delete_file(partial)
                raise
            info = self._store.get_file_info(path)
        except OSError as error:
            raise self._store_error(error) from None
        return info.size, info.mtime_ns

    def _remove_stale(self) -> None:
        """Removes from the store, once, what uploads that were killed have left there."""
        if self._cleaned:
            return
        self._cleaned = True
        for info in self._list(self._root, recursive=True):
            old = time.time_ns() - (info.mtime_ns or 0) > 1e9 * _STALE_SECONDS
            if info.is_file and is_unfinished(info.base_name) and old:
                with suppress(OSError):
                    self._store.delete_file(info.path)

    def checkpoints(self) -> Iterator[Path]:
        """Yields the run's checkpoints, newest first, each fetched when its turn comes."""
        found = self._list(f"{self._root}/{CHECKPOINTS}", recursive=False)
        ordered = [(order, info) for info in found if (order := checkpoint_order(info.base_name))]
        for _, info in sorted(ordered, key=lambda pair: pair[0], reverse=True):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch) / info.base_name
                folder.mkdir()
                self._fetch(info.path, folder)
                yield folder

    def train_storage(self) -> tuple[stores.FileSystem, str]:
        """Returns where Ray Train keeps the run's checkpoints, in its terms."""
        return self._store, self._root

    def _list(self, path: str, *, recursive: bool) -> list[stores.FileInfo]:
        selector = stores.FileSelector(path, allow_not_found=True, recursive=recursive)
        try:
            return self._store.get_file_info(selector)  # type: ignore[no-any-return]
        except OSError as error:
            raise self._store_error(error) from None

    def _fetch(self, path: str, target: Path) -> None:
        """Fetches a file, or all files of a folder into one that exists."""
        try:
            stores.copy_files(
                path,
                str(target),
                source_filesystem=self._store,
                destination_filesystem=_LOCAL,
                chunk_size=_BYTES_PER_REQUEST,
            )
        except OSError as error:
            raise self._store_error(error) from None

    def _store_error(self, error: OSError) -> UserError:
        return store_error(self.address, error, "run the same command with --resume")


def _is_chosen(name: str, only: tuple[str, ...], leave: tuple[str, ...] = ()) -> bool:
    """Returns whether a file, by its name in the folder, is one to mirror.

    No checkpoint is, nothing that is being written, and nothing that lies elsewhere: a store holds
    any names that somebody gives.
    """
    parts = PurePosixPath(name).parts
    return (
        (not only or name in only)
        and not {CHECKPOINTS, *leave} & set(parts[:-1])
        and not any(is_unfinished(part) or part in ("/", "..") for part in parts)
        and not name.endswith((".part", ".tmp"))
    )


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
