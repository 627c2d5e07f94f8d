"""Images of a split that are read where and when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from dynat_ray.data.stored import open_split
from dynat_ray.data.subsets import Indices
from dynat_ray.object_store import absolute_place


class LazySplit:
    """Stands for images `(N, C, H, W)` of which whoever takes some reads those alone.

    It can be sent to another process, which opens the split itself.

    Args:
        path: Prepared folder, the same on all machines, or an address.
        split: `train` or `test`.
        image_size: Height and width in pixels to bring the images to; 0: as stored.
        positions: Which images of the split these are, `(N,)`; None: all.
    """

    def __init__(
        self,
        path: Path | str,
        split: str,
        *,
        image_size: int = 0,
        positions: Indices | None = None,
    ) -> None:
        # Others run elsewhere, where a relative path names another place.
        self.path = absolute_place(path)
        self._split, self._image_size = split, image_size
        self._positions = positions
        self._read: Callable[[Indices], Tensor] | None = None

    def __getitem__(self, wanted: Tensor) -> Tensor:
        """Reads some of the images.

        Args:
            wanted: Their places among these, int64 `(n,)`.

        Returns:
            uint8 `(n, C, H, W)`, on the CPU.

        Raises:
            UserError: As `dynat_ray.data.load_split`.
        """
        if self._read is None:
            self._read = open_split(self.path, self._split, image_size=self._image_size)
        places = wanted.numpy()
        return self._read(places if self._positions is None else self._positions[places])

    def __getstate__(self) -> dict[str, object]:
        """Returns everything but what this process has opened."""
        return vars(self) | {"_read": None}

    @property
    def identity(self) -> str:
        """Names these images among all of the data set with the checksum that it has."""
        chosen = b"" if self._positions is None else self._positions.tobytes()
        words = f"{self._split} at {self._image_size}"
        return f"{words}, {hashlib.sha256(chosen).hexdigest()}" if chosen else words
