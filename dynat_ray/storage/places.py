"""Where a command writes: a folder, or an object store by way of a temporary folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dynat_ray.errors import UserError
from dynat_ray.interrupt import going_on
from dynat_ray.object_store import is_address, join, split_address
from dynat_ray.storage.lease import lease, store_lease
from dynat_ray.storage.mirror import Mirror, set_mirror_address
from dynat_ray.submitted_job import in_submitted_job, require_lasting
from dynat_ray.user_path import user_path

_OUT = "DYNAT_RAY_OUT"


@dataclass(frozen=True)
class Place:
    """Where a run, search or comparison is written.

    Attributes:
        folder: To write to.
        given: The user named a folder or store that all machines see.
        address: Of the object store that the folder is mirrored in; empty: none.
    """

    folder: Path
    given: bool
    address: str = ""

    def written(self, name: str) -> str:
        """Returns the path or address of a file of it, as the user is shown it."""
        return join(self.address, name) if self.address else str(self.folder / name)


@contextmanager
def open_place(
    kind: str, storage: str, out: str | None, name: str, *, resume: bool
) -> Iterator[Place]:
    """Gives the place for `name`, to this process alone; what is written there is kept.

    Args:
        kind: A run, search or comparison.
        storage: `cluster.storage`; empty: not given.
        out: `--out`; None: not given.
        name: Of the run, search or comparison.
        resume: `--resume`, which a command that was stopped says goes on.

    Raises:
        UserError: The place would not last, holds a password, does not answer, or is in use.
    """
    place = choose_place(storage, out, name)
    with going_on("--name", name, "--resume"):
        if place.address:
            chosen, _ = split_address(place.address)
            with (
                store_lease(chosen, name, kind, wait=resume),
                mirrored_folder(chosen, name) as folder,
            ):
                yield replace(place, folder=folder)
        else:
            with lease(place.folder, kind, wait=resume):
                yield place


def choose_place(storage: str, out: str | None, name: str) -> Place:
    """Returns where `open_place` would write; where that is a store, no folder is there yet.

    Raises:
        UserError: It would not last, or holds a password.
    """
    chosen = storage or out or os.environ.get(_OUT, "")
    option = "cluster.storage" if storage else "--out" if out else _OUT
    if chosen and is_address(chosen):
        return Place(Path(name), given=True, address=join(chosen, name))
    folder = user_path(chosen) if chosen else default_out()
    if chosen:
        require_lasting(folder, option)
    return Place(folder.resolve() / name, given=bool(chosen))


def default_out() -> Path:
    """Returns where run folders go when nobody says.

    The working directory of a submitted Ray job vanishes with it, so there it is a folder in the
    home directory.
    """
    return Path.home() / "dynat-ray-runs" if in_submitted_job() else Path("runs")


def default_place() -> str:
    """Returns the folder or address in which commands write where nobody says."""
    return os.environ.get(_OUT, "") or str(default_out())


@contextmanager
def fetched(run: str) -> Iterator[str]:
    """Gives the folder of a run, fetched if it lies in a store; what is written there is kept.

    Args:
        run: Folder, address, or anything else, which is given back.
    """
    if not is_address(run):
        yield run
        return
    with mirrored_folder(*split_address(run)) as folder:
        yield str(folder)


def written_at(file: Path) -> Path | str:
    """Returns a file as the user is shown it: by its address, if its folder is mirrored."""
    mirror = Mirror.of(file)
    return file if mirror is None else mirror.address


def lasting_file(file: Path, *, given: bool, of: str) -> Path:
    """Returns where to write a file that by default would go into the working directory.

    Args:
        file: Where it would go.
        given: The user said so, with `--out`.
        of: What is written: in a submitted job the name follows from it, so that the same command
            finds the file again.
    """
    if given:
        require_lasting(file, "--out")
    elif in_submitted_job() and not file.is_absolute():
        folder = default_out()
        folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(of.encode()).hexdigest()[:8]
        return folder / f"{file.stem}-{key}{file.suffix}"
    return file


@contextmanager
def mirrored_folder(parent: str, name: str) -> Iterator[Path]:
    """Gives a temporary folder with what the store has below `name`, and sends back what is new.

    Args:
        parent: Address of a place in the store.
        name: Below it.
    """
    with tempfile.TemporaryDirectory(prefix="dynat-ray-") as scratch:
        set_mirror_address(Path(scratch), parent)
        mirror = Mirror(Path(scratch) / name, join(parent, name))
        mirror.pull()
        try:
            yield mirror.folder
        except BaseException:
            # What ended the command is what the user must hear of.
            with suppress(UserError):
                mirror.push()
            raise
        mirror.push()
