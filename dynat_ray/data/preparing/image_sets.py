"""The images and labels of one split, before they are stored."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.preparing.file_stores import FileStore
from dynat_ray.data.preparing.image_files import (
    BadImage,
    Decoded,
    Header,
    Pixels,
    Wanted,
    read_header,
    read_pixels,
    resize_pixels,
)


class ImageSet(Protocol):
    """Images that can be read in any order, from several threads.

    Attributes:
        labels: int64 `(N,)`.
    """

    labels: NDArray[np.int64]

    def name(self, position: int) -> str:
        """Returns what to call an image."""

    def header(self, position: int) -> Header:
        """Returns what an image is. Raises `BadImage`."""

    def read(self, position: int, wanted: Wanted) -> Decoded:
        """Returns an image as it is wanted. Raises `BadImage`."""


class ArrayImages:
    """Images that already are an array (in memory, or mapped from a file)."""

    def __init__(self, images: Pixels, labels: NDArray[np.integer]) -> None:
        """Wraps images of shape `(N, H, W, C)`, C being 1 or 3."""
        assert images.ndim == 4
        assert images.shape[3] in (1, 3)
        assert len(images) == len(labels)
        self._images = images
        self.labels = np.asarray(labels, dtype=np.int64)

    def name(self, position: int) -> str:
        """See `ImageSet`."""
        return f"image {position}"

    def header(self, position: int) -> Header:
        """See `ImageSet`."""
        _, height, width, channels = self._images.shape
        return Header(channels=channels, size=(height, width))

    def read(self, position: int, wanted: Wanted) -> Decoded:
        """See `ImageSet`."""
        pixels = np.asarray(self._images[position])
        pixels = resize_pixels(pixels, wanted.side) if wanted.side else pixels
        if pixels.shape[2] != wanted.channels:
            pixels = np.repeat(pixels, wanted.channels, axis=2)
        return Decoded(pixels)


class FileImages:
    """Images that are files."""

    def __init__(self, store: FileStore, files: list[PurePosixPath], labels: list[int]) -> None:
        """Takes one label per file."""
        assert len(files) == len(labels)
        self._store = store
        self._files = files
        self.labels = np.asarray(labels, dtype=np.int64)

    def name(self, position: int) -> str:
        """See `ImageSet`."""
        return str(self._files[position])

    def header(self, position: int) -> Header:
        """See `ImageSet`."""
        with self._open(position) as file:
            return read_header(file, self._shown(position))

    def read(self, position: int, wanted: Wanted) -> Decoded:
        """See `ImageSet`."""
        with self._open(position) as file:
            return read_pixels(file, self._shown(position), wanted)

    def _open(self, position: int) -> BinaryIO:
        try:
            return self._store.open(self._files[position])
        except OSError as error:
            raise BadImage(f"{self._shown(position)} ({error.strerror})") from None

    def _shown(self, position: int) -> str:
        return f"{self._store.shown}/{self._files[position]}"
