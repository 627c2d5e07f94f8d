"""Files in parts."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from dynat_ray.data.info import StoredFile
from dynat_ray.data.stored_parts import joined, part_names, starts_of


def described(content: bytes) -> StoredFile:
    return StoredFile(bytes=len(content), crc32=zlib.crc32(content))


@pytest.mark.parametrize("lengths", [[5], [0, 7], [1, 0, 3], [100_003, 2, 65_536]])
def test_the_checksum_of_the_whole_follows_from_those_of_the_parts(lengths: list[int]) -> None:
    generator = np.random.default_rng(0)
    pieces = [generator.bytes(length) for length in lengths]
    assert joined([described(piece) for piece in pieces]) == described(b"".join(pieces))


def test_parts_are_named_and_placed_in_order() -> None:
    assert part_names("train.beton", 64)[::63] == [
        "train-00000-of-00064.beton",
        "train-00063-of-00064.beton",
    ]
    assert starts_of([StoredFile(bytes=n, crc32=0) for n in (3, 0, 4)]) == [0, 3, 3]
