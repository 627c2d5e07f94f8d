"""Writing a split as safetensors without holding it in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.preparing.image_files import Pixels


class TensorWriter:
    """Collects images of one size, then writes `images` and `labels` into one file.

    Labels go first in the file, for their alignment; they are known last, so the pixels wait in
    a file beside it.
    """

    def __init__(self, path: Path) -> None:
        """Starts the file at `path`."""
        self._path = path
        self._waiting = path.with_suffix(".pixels")
        self._pixels = self._waiting.open("wb")
        self._shape: tuple[int, ...] = (0, 0, 0)
        self._labels: list[NDArray[np.int64]] = []

    def add(self, images: Pixels, labels: NDArray[np.int64]) -> None:
        """Appends uint8 images `(B, H, W, C)` and labels `(B,)`."""
        planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        self._shape = planes.shape[1:]
        self._pixels.write(planes.data)
        self._labels.append(labels)

    def close(self) -> None:
        """Writes the file."""
        self._pixels.close()
        labels = np.concatenate(self._labels)
        split = labels.nbytes
        end = split + self._waiting.stat().st_size
        shape = [len(labels), *self._shape]
        header = json.dumps(
            {
                "labels": {"dtype": "I64", "shape": shape[:1], "data_offsets": [0, split]},
                "images": {"dtype": "U8", "shape": shape, "data_offsets": [split, end]},
            }
        ).encode()
        header += b" " * (-len(header) % 8)
        with self._path.open("wb") as file, self._waiting.open("rb") as pixels:
            file.write(len(header).to_bytes(8, "little") + header)
            file.write(labels.astype("<i8").tobytes())
            shutil.copyfileobj(pixels, file, 1 << 22)
        self._waiting.unlink()
