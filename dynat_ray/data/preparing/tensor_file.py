"""Writing a split as safetensors without holding it in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from dynat_ray.data.preparing.image_files import Pixels


class TensorWriter:
    """Collects images of one size, then writes `images` and `labels` into one file.

    How many there are is known last, so the pixels wait in a file beside it, from which they are
    mapped into memory.
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
        """Writes the file: uint8 `images` `(N, C, H, W)` and int64 `labels` `(N,)`."""
        self._pixels.close()
        size = self._waiting.stat().st_size
        pixels = torch.from_file(str(self._waiting), size=size, dtype=torch.uint8)
        labels = torch.from_numpy(np.concatenate(self._labels))
        save_file({"images": pixels.view(-1, *self._shape), "labels": labels}, self._path)
        # safetensors lets only its owner read a file.
        shutil.copymode(self._waiting, self._path)
        self._waiting.unlink()
