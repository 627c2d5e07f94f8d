"""Which parts of a stored file hold what is to be read; the others need not be on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.beton_check import check_beton
from dynat_ray.data.info import DatasetInfo, is_copy
from dynat_ray.data.store_copy import Say, lacking_parts, require_here
from dynat_ray.data.stored_parts import parts_of, parts_with
from dynat_ray.data.subsets import Indices
from dynat_ray.errors import UserError

_LARGEST_HEADER = 2**20


class ImagePlaces:
    """Where the images of a split lie in one of its files, of which that much is fetched.

    Args:
        info: The data set.
        file: `SPLIT.beton` or `SPLIT.safetensors`, by its place on this machine.
        say: See `require_here`.

    Raises:
        UserError: As `require_here`; or the file is not what it should be.
    """

    def __init__(self, info: DatasetInfo, file: Path, say: Say | None = None) -> None:
        _, self._parts = parts_of(info, file.name)
        self._tables = require_tables(info, file, say)
        if file.suffix == ".beton":
            tables = check_beton(info, file)
            self._starts: NDArray[np.integer] = tables.starts
            self._lengths: NDArray[np.integer] = tables.lengths
            return
        first, end = _spans(file)["images"]
        count = info.counts[file.stem]
        self._lengths = np.full(count, (end - first) // count)
        self._starts = first + self._lengths * np.arange(count)

    def parts(self, used: Indices) -> set[int]:
        """Returns the numbers of the parts that reading some of the images takes."""
        return self._tables | parts_with(self._parts, self._starts[used], self._lengths[used])


def require_tables(info: DatasetInfo, file: Path, say: Say | None = None) -> set[int]:
    """Fetches of a file what is not pixels; returns the numbers of the parts that hold it.

    Args:
        info: The data set.
        file: `SPLIT.beton` or `SPLIT.safetensors`, by its place on this machine.
        say: See `require_here`.

    Raises:
        UserError: As `require_here`; or the file is not what it should be.
    """
    _, parts = parts_of(info, file.name)
    if file.suffix == ".beton":
        wanted = {0, len(parts) - 1}
    else:
        require_here(info, file, {0}, say=say)
        first, end = _spans(file)["labels"]
        wanted = {0} | parts_with(parts, np.array([first]), np.array([end - first]))
    require_here(info, file, wanted, say=say)
    return wanted


def require_images(
    info: DatasetInfo, file: Path, used: Indices | None, say: Say | None = None
) -> None:
    """Fetches what this machine lacks to read some images; nothing if the file is in no copy.

    Args:
        info: The data set.
        file: `SPLIT.beton` or `SPLIT.safetensors`, by its place on this machine.
        used: Which images of the split, int64; None: all.
        say: See `require_here`.

    Raises:
        UserError: As `require_here`; or the file is not what it should be.
    """
    if used is None or file.name not in info.files or not is_copy(file.parent):
        require_here(info, file, say=say)
    else:
        require_here(info, file, ImagePlaces(info, file, say).parts(used), say=say)


def has_images(info: DatasetInfo, file: Path, used: Indices) -> bool:
    """Returns whether some images of a file can be read without fetching anything.

    Raises:
        UserError: The file is not what it should be.
    """
    if file.name not in info.files:
        return False
    lacking = lacking_parts(info, file).keys()
    if not lacking:
        return True
    return not tables_to_fetch(info, file) and lacking.isdisjoint(
        ImagePlaces(info, file).parts(used)
    )


def tables_to_fetch(info: DatasetInfo, file: Path) -> int:
    """Returns about how many bytes this machine lacks of what is not pixels in a file.

    Args:
        info: The data set.
        file: `SPLIT.beton` or `SPLIT.safetensors`, by its place on this machine.
    """
    if not (lacking := lacking_parts(info, file)):
        return 0
    last = len(parts_of(info, file.name)[1]) - 1
    # Labels come before pixels in tensors.
    tables = {0, last} if file.suffix == ".beton" else {0}
    return sum(lacking.get(each, 0) for each in tables)


def _spans(file: Path) -> dict[str, tuple[int, int]]:
    """Returns the first byte of each tensor of a file, and the one after its last."""
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(0)
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, _LARGEST_HEADER)))
        start = 8 + length
        spans = {}
        for name in ("images", "labels"):
            first, end = (start + int(each) for each in header[name]["data_offsets"])
            if not start <= first <= end <= size:
                raise ValueError
            spans[name] = (first, end)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{file} is damaged: its header is none of safetensors") from None
    return spans
