"""Images of a beton that this machine keeps on its disk, and what each of them must look like.

They lie in their places in the copy of the file, whose other places are holes. A table beside it
has a number for each image, which all processes of the machine share: its CRC-32 as it was first
read, and whether it is kept. So what is read again is compared with what was read first, wherever
it comes from: a kill, a power failure or a bad disk costs the images that they hit.

Which are kept: those that come first, while the disk has room. Epochs visit images in random order,
so that these are a random part of them, and the same from then on. Making room for a newer image
would be in vain: all others are needed before the same one is again.
"""

from __future__ import annotations

import mmap
import os
import sys
import weakref
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.cache_room import has_room_to_spare

_SEEN, _KEPT = 1, 2
_CHECKSUM_AT = 32


class KeptImages:
    """The images of one beton, as far as this machine knows them.

    Args:
        file: The copy of it, which has its full length.
        starts: First byte of each image in the file, `(N,)`.
        lengths: Bytes of each image, `(N,)`.
        whole: Which images lie in parts of the file that were fetched as such, bool `(N,)`.

    Attributes:
        table: The file beside it that says of each image what it must look like.
    """

    def __init__(
        self,
        file: Path,
        starts: NDArray[np.integer],
        lengths: NDArray[np.integer],
        whole: NDArray[np.bool_],
    ) -> None:
        self._file = file
        self._starts, self._lengths = starts, lengths
        self._whole = whole
        self._descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        # Not before the last thread that may write to it lets go of this.
        weakref.finalize(self, os.close, self._descriptor)
        self.table = file.with_name(f"{file.name}.images")
        self._table: NDArray[np.uint64] = np.zeros(len(starts), np.uint64)
        self._keeps = True
        try:
            self._table = _shared_table(self.table, len(starts))
        except OSError as error:
            # Of the images that this process reads it knows at least whether they change.
            self._keep_no_more(str(error))

    def here(self, indices: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Returns which of some images are on this machine, bool `(n,)`."""
        kept = self._table[indices] & np.uint64(_KEPT) != 0
        return kept | self._whole[indices]  # type: ignore[no-any-return]

    def read(self, index: int, into: memoryview) -> bool:
        """Reads an image that is here; returns whether it still is what it was.

        Args:
            index: Which.
            into: Takes its bytes.
        """
        try:
            length = os.preadv(self._descriptor, [into], int(self._starts[index]))
        except OSError:
            length = 0
        if length == len(into) and self.agrees(index, into):
            return True
        # So that it is kept again when it comes again.
        self._table[index] &= ~np.uint64(_KEPT)
        return False

    def agrees(self, index: int, content: bytes | memoryview) -> bool:
        """Returns whether an image is what it was when this machine first read it, if it did.

        Args:
            index: Which.
            content: Its bytes.
        """
        found, checksum = int(self._table[index]), zlib.crc32(content)
        if found:
            return found >> _CHECKSUM_AT == checksum
        self._table[index] = checksum << _CHECKSUM_AT | _SEEN
        return True

    def keep(self, index: int, content: bytes | memoryview) -> None:
        """Keeps an image that came from the store, if there is room for it.

        Args:
            index: Which; `agrees` has seen it.
            content: Its bytes.
        """
        if not self._keeps or int(self._table[index]) & _KEPT:
            return
        if not has_room_to_spare(self._file.parent, len(content)):
            self._keep_no_more("the rest of its disk is left to others")
            return
        try:
            written = os.pwrite(self._descriptor, content, int(self._starts[index]))
        except OSError as error:
            self._keep_no_more(str(error))
            return
        if written == len(content):
            self._table[index] |= np.uint64(_KEPT)

    def _keep_no_more(self, why: str) -> None:
        if not self._keeps:
            return
        self._keeps = False
        kept = self._table & np.uint64(_KEPT) != 0
        size = int(self._lengths[kept].sum()) / 1e9
        print(
            f"keeping {np.count_nonzero(kept)} of {len(kept)} images ({size:.1f} GB) of "
            f"{self._file} and no more: {why}; the others come from the store in every epoch",
            file=sys.stderr,
            flush=True,
        )


def _shared_table(path: Path, count: int) -> NDArray[np.uint64]:
    """Returns the table of a beton's images, which others see as well, uint64 `(N,)`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # A hole that the disk has no room for would end the process when it is written.
        os.posix_fallocate(descriptor, 0, 8 * count)
        mapped = mmap.mmap(descriptor, 8 * count)
    finally:
        os.close(descriptor)
    return np.frombuffer(mapped, np.uint64)
