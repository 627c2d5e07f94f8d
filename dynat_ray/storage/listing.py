"""A place with runs as who lists them needs it: itself, or small copies of what a store holds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs as stores

from dynat_ray.object_store import is_address, join, open_store
from dynat_ray.storage.claims import is_claim
from dynat_ray.storage.failure import FAILURE
from dynat_ray.storage.mirror import Mirror
from dynat_ray.user_path import user_path

# What tells of a run, search or comparison how it does.
_TELLING = (
    *("config.yaml", "results.json", "metrics.jsonl", FAILURE),
    *("search.yaml", "trial.json", "compare.yaml", "compare.csv"),
)
# Where the runs of a search or comparison lie, by the file that it is known by.
_INNER = {"search.yaml": "trials", "compare.yaml": "runs"}


@contextmanager
def listed(place: str) -> Iterator[Path]:
    """Gives a folder with what tells of the runs in a place.

    Args:
        place: A folder or an address.

    Raises:
        UserError: The store does not answer.
    """
    if not is_address(place):
        yield user_path(place)
        return
    with tempfile.TemporaryDirectory(prefix="dynat-ray-") as scratch:
        folder = Path(scratch)
        for name in _copy_claims(place, folder):
            own = folder / name
            _copy_telling(own, join(place, name))
            for file, inner in _INNER.items():
                if (own / file).is_file():
                    there = join(place, f"{name}/{inner}")
                    for run in _copy_claims(there, own / inner):
                        _copy_telling(own / inner / run, join(there, run))
        yield folder


def _copy_telling(folder: Path, address: str) -> None:
    Mirror(folder, address).pull(only=_TELLING)


def _copy_claims(address: str, folder: Path) -> list[str]:
    """Copies the claims to what lies at an address; returns the names of the folders there.

    Claims keep their times: they tell whether an owner elsewhere still gives signs of life.
    """
    store, root = open_store(address)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for info in store.get_file_info(stores.FileSelector(root, allow_not_found=True)):
        if info.type == stores.FileType.Directory and info.base_name != "..":
            found.append(info.base_name)
        elif info.is_file and is_claim(info.base_name):
            # An owner that has just ended has taken its claim away.
            with suppress(FileNotFoundError), store.open_input_stream(info.path) as file:
                copy = folder / info.base_name
                copy.write_bytes(file.read(info.size))
                os.utime(copy, ns=(info.mtime_ns, info.mtime_ns))
    return found
