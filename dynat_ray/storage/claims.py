"""Claims to a folder or file: small files beside it that say which process means to write there.

What they decide is in `dynat_ray.storage.lease`. They lie on a disk, on a folder that machines
share, or in an object store; Arrow has no conditional writes there, and none are needed: each
claimant writes under a name of its own, and names are listed as they are after every write (S3 and
Google's store have been consistent in that since 2020; NFS looks anew after a write of its own).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import pyarrow.fs as stores

from dynat_ray.bounded_file import read_bounded
from dynat_ray.object_store import open_store
from dynat_ray.processes import begin_of, this_place
from dynat_ray.shown_text import shown_text

# A claim is rewritten in place, so that a full disk does not cut it.
_LENGTH = 2048
_LONGEST_NAME = 200
_MARK = ".lease-"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True)
class Claim:
    """What a claim says.

    Attributes:
        owner: Its process has the folder to itself; else it is about to find out.
        ending: That process was told to end.
        beat: Grows as long as it lives.
        process: Its number.
        begun: When it began, see `begin_of`.
        place: Where it runs, see `this_place`.
        host: Name of that machine, for people.
        since: When it claimed, for people.
    """

    owner: bool = False
    ending: bool = False
    beat: int = 0
    process: int = field(default_factory=os.getpid)
    begun: str = field(default_factory=lambda: begin_of(os.getpid()))
    place: str = field(default_factory=this_place)
    host: str = field(default_factory=socket.gethostname)
    since: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))

    @property
    def is_near(self) -> bool:
        """Whether its process can be looked up from here."""
        return self.place == this_place()

    @property
    def is_dead(self) -> bool:
        """Whether its process is known to have ended."""
        return self.is_near and begin_of(self.process) != self.begun

    def __str__(self) -> str:
        who = f"process {self.process}" if self.process else "an unknown process"
        return shown_text(f"{who} on {self.host} (since {self.since})")

    def encode(self) -> bytes:
        """Returns it as it is written, always of the same length."""
        return json.dumps(asdict(self)).encode().ljust(_LENGTH)


def read_claim(content: bytes) -> Claim:
    """Returns the claim of a file that anybody may have written, or that is just being written."""
    try:
        found: dict[str, Any] = json.loads(content)
        known = {each.name: found[each.name] for each in fields(Claim)}
        if all(type(value) is type(getattr(_UNKNOWN, name)) for name, value in known.items()):
            return Claim(**known)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return _UNKNOWN


_UNKNOWN = Claim(process=0, begun="", place="", host="an unknown host", since="?")


def is_claim(name: str) -> bool:
    """Returns whether a file is a claim to something beside it, by its name."""
    return name.startswith(".") and _MARK in name


class Claims(Protocol):
    """The claims to one folder, and this process's own."""

    def others(self) -> dict[str, bytes]:
        """Returns what all but the own one hold, by name."""
        ...

    def write(self, content: bytes) -> None:
        """Writes the own one, new."""
        ...

    def rewrite(self, content: bytes) -> None:
        """Writes the own one again; raises `FileNotFoundError` if somebody has removed it."""
        ...

    def remove(self, name: str = "") -> None:
        """Removes one; without a name the own one."""
        ...


class FolderClaims:
    """Claims that lie on a disk, or a folder that machines share.

    Args:
        path: What is claimed; its parent exists.
    """

    def __init__(self, path: Path) -> None:
        self._folder, self._prefix = path.parent, _prefix(path.name)
        self._own = self._prefix + secrets.token_hex(8)

    def others(self) -> dict[str, bytes]:
        found = {}
        for name in os.listdir(self._folder):
            if name.startswith(self._prefix) and name != self._own:
                # It may have gone meanwhile; what can't be read says nothing, and so is not taken
                # for anybody's end.
                with suppress(FileNotFoundError):
                    found[name] = _content(self._folder / name)
        return found

    def write(self, content: bytes) -> None:
        self._put(content, _NEW)

    def rewrite(self, content: bytes) -> None:
        self._put(content, _OLD)

    def _put(self, content: bytes, flags: int) -> None:
        descriptor = os.open(self._folder / self._own, flags, 0o666)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, name: str = "") -> None:
        (self._folder / (name or self._own)).unlink(missing_ok=True)


class StoreClaims:
    """Claims in an object store.

    Args:
        parent: Address of what holds the claimed folder.
        name: Of that folder.
    """

    def __init__(self, parent: str, name: str) -> None:
        self._store, self._root = open_store(parent)
        self._prefix = _prefix(name)
        self._own = self._prefix + secrets.token_hex(8)

    def others(self) -> dict[str, bytes]:
        found = {}
        for info in self._store.get_file_info(
            stores.FileSelector(self._root, allow_not_found=True, recursive=False)
        ):
            name = info.base_name
            if info.is_file and name.startswith(self._prefix) and name != self._own:
                with suppress(FileNotFoundError), self._store.open_input_stream(info.path) as file:
                    found[name] = file.read(_LENGTH)
        return found

    def write(self, content: bytes) -> None:
        with self._store.open_output_stream(f"{self._root}/{self._own}") as file:
            file.write(content)

    def rewrite(self, content: bytes) -> None:
        path = f"{self._root}/{self._own}"
        if not self._store.get_file_info(path).is_file:
            raise FileNotFoundError(path)
        self.write(content)

    def remove(self, name: str = "") -> None:
        with suppress(FileNotFoundError):
            self._store.delete_file(f"{self._root}/{name or self._own}")


def with_beat(claim: Claim, beat: int, *, ending: bool) -> Claim:
    """Returns an owner's claim as it stands after so many signs of life."""
    return replace(claim, owner=True, ending=ending, beat=beat)


def _prefix(name: str) -> str:
    """Returns how the names of claims begin; long names of folders leave no room for more."""
    short = name if len(os.fsencode(name)) <= _LONGEST_NAME else sha256(name.encode()).hexdigest()
    return f".{short}{_MARK}"


def _content(file: Path) -> bytes:
    try:
        return read_bounded(file, _LENGTH)
    except FileNotFoundError:
        raise
    except OSError:
        return b""
