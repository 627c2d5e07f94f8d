"""Stored files in parts, as they lie in an object store: joined in order they are the file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.info import DatasetInfo, StoredFile

UNFINISHED = "unfinished.json"
"""Beside the parts while `prepare` writes them: which are complete."""
# Polynomials over GF(2) modulo that of CRC-32, the coefficient of x^0 in the highest bit.
_CRC_POLYNOMIAL = 0xEDB88320
_ONE, _X_TO_8 = 1 << 31, 1 << 23


def part_names(file: str, count: int) -> list[str]:
    """Returns the names of a file's parts, such as `train-00000-of-00064.beton`."""
    path = PurePosixPath(file)
    return [f"{path.stem}-{each:05d}-of-{count:05d}{path.suffix}" for each in range(count)]


def parts_of(info: DatasetInfo, file: str) -> tuple[list[str], list[StoredFile]]:
    """Returns under which names a file lies in a store, and what each part must look like.

    A data-set folder that was copied there by other means has every file in one piece.
    """
    if file in info.parts:
        return part_names(file, len(info.parts[file])), info.parts[file]
    return [file], [info.files[file]]


def starts_of(parts: Sequence[StoredFile]) -> list[int]:
    """Returns at which byte of the file each part begins."""
    return list(accumulate((part.bytes for part in parts[:-1]), initial=0))


def parts_with(
    parts: Sequence[StoredFile], starts: NDArray[np.integer], lengths: NDArray[np.integer]
) -> set[int]:
    """Returns the numbers of the parts that hold any of some bytes.

    Args:
        parts: Of the file, in order.
        starts: First byte of each piece of the file, `(n,)`.
        lengths: Bytes of each piece, at least one, `(n,)`.
    """
    begins = np.array(starts_of(parts), np.int64)
    first = np.searchsorted(begins, starts.astype(np.int64), side="right") - 1
    ends = starts.astype(np.int64) + lengths.astype(np.int64)
    last = np.searchsorted(begins, ends, side="left") - 1
    # How many pieces are in each part: one more where they begin, one less after they end.
    steps = np.bincount(first, minlength=len(parts) + 1)
    steps -= np.bincount(last + 1, minlength=len(parts) + 1)
    return set(np.flatnonzero(np.cumsum(steps)).tolist())


def joined(parts: Sequence[StoredFile]) -> StoredFile:
    """Returns what the file must look like."""
    checksum = 0
    for part in parts:
        # Each byte of the part multiplies the remainder of what is before it by x^8.
        checksum = _multiply(_power_of_x8(part.bytes), checksum) ^ part.crc32
    return StoredFile(bytes=sum(part.bytes for part in parts), crc32=checksum)


def _power_of_x8(exponent: int) -> int:
    result, square = _ONE, _X_TO_8
    while exponent:
        if exponent & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        exponent >>= 1
    return result


def _multiply(one: int, other: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ (_CRC_POLYNOMIAL if other & 1 else 0)
    return product
