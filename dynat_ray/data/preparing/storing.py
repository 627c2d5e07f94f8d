"""Storing one split: exact pixels or JPEG, with their statistics and checksum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.preparing.beton import BetonWriter, WholeFile
from dynat_ray.data.preparing.image_files import Pixels
from dynat_ray.data.preparing.part_sending import CutFile, PartSender, bytes_per_part
from dynat_ray.data.preparing.tensor_file import TensorWriter

_JPEG_QUALITY = 90
_TOGETHER = 512
"""Small images that are handled at once; a call per image would cost more than the work."""
_MOST_PENDING = 2**24
"""Bytes of images, likewise: large ones would fill the memory several times over."""
_COUNTED = 2**20
"""Pixels counted at once: NumPy turns each into eight bytes for that."""


@dataclass(kw_only=True)
class Layout:
    """How the images of a data set are stored.

    Attributes:
        channels: 1 or 3.
        size: Height and width as stored if all images share them, else None.
        storage: `raw` or `jpeg`.
        max_side: Longest side of an image stored as JPEG; 0 for raw.
        beton: Write FFCV files.
        tensors: Write safetensors.
    """

    channels: int
    size: tuple[int, int] | None
    storage: Literal["raw", "jpeg"]
    max_side: int
    beton: bool
    tensors: bool


@dataclass
class Encoded:
    """An image ready to be stored.

    Attributes:
        data: Raw pixels `(H, W, C)`, or a JPEG file.
        size: Height and width.
        histogram: int64 `(C, 256)`, how often each grey level occurs; None for raw images, which
            are counted many at once.
    """

    data: Pixels | bytes
    size: tuple[int, int]
    histogram: NDArray[np.int64] | None


def stored_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Returns height and width of an image once its longest side is at most `max_side` pixels."""
    height, width = size
    scale = min(max_side / max(size), 1.0)
    return max(1, round(height * scale)), max(1, round(width * scale))


def encode(pixels: Pixels, layout: Layout) -> Encoded:
    """Encodes one image `(H, W, C)`. Runs in a thread; its slow parts release the lock."""
    if layout.storage == "raw":
        return Encoded(pixels, pixels.shape[:2], None)
    import cv2

    height, width = stored_size(pixels.shape[:2], layout.max_side)
    if (height, width) != pixels.shape[:2]:
        resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(resized, np.uint8).reshape(height, width, layout.channels)
    blue_first = np.broadcast_to(pixels[..., ::-1], (*pixels.shape[:2], 3))
    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(blue_first), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    assert done
    # Twice as fast as counting with NumPy; its float32 are exact up to 16 million pixels.
    levels = [
        cv2.calcHist([pixels], [channel], None, [256], [0, 256]).ravel()
        for channel in range(layout.channels)
    ]
    return Encoded(data.tobytes(), pixels.shape[:2], np.array(levels, np.int64))


def count_levels(pixels: Pixels) -> NDArray[np.int64]:
    """Returns how often each grey level occurs in each channel, `(C, 256)`, of `(..., C)`."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    levels = np.zeros((flat.shape[1], 256), np.int64)
    for start in range(0, len(flat), _COUNTED):
        for channel, values in enumerate(flat[start : start + _COUNTED].T):
            levels[channel] += np.bincount(values, minlength=256)
    return levels


@dataclass
class SplitWriter:
    """Writes `SPLIT.beton` and `SPLIT.safetensors`, as the layout wants.

    Attributes:
        folder: Where.
        split: Which.
        layout: How.
        most_samples: How many images there are at most.
        sender: Takes the files away, in parts; None: they stay.
        levels: Grey levels seen so far, `(C, 256)`.
        labels: Labels stored so far.
    """

    folder: Path
    split: str
    layout: Layout
    most_samples: int
    sender: PartSender | None = None
    levels: NDArray[np.int64] = field(init=False)
    labels: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Opens the files."""
        layout = self.layout
        self.levels = np.zeros((layout.channels, 256), np.int64)
        self._digest = hashlib.sha256()
        self._pending: list[tuple[Pixels, int]] = []
        height, width = layout.size or (layout.max_side, layout.max_side)
        largest = 3 * height * width
        # As JPEG about a sixth, of a common kind of image.
        usual = largest if layout.storage == "raw" else max(1, largest // 6)
        self._per_part = max(1, bytes_per_part() // usual)
        self._beton = None
        if layout.beton:
            file = self.folder / f"{self.split}.beton"
            # With a part for what comes before the pixels, and one for what comes after them.
            parts = -(-self.most_samples // self._per_part) + 2
            output = WholeFile(file) if self.sender is None else CutFile(self.sender, file, parts)
            self._beton = BetonWriter(output, self.most_samples, largest)
        self._tensor_file = self.folder / f"{self.split}.safetensors"
        self._tensors = TensorWriter(self._tensor_file) if layout.tensors else None

    def pass_by(self, number: int) -> None:
        """Takes in that the image `number`, of at most `most_samples`, comes next, or is left out.

        What a part holds follows from that alone, so that a writer that is started again makes the
        same parts.
        """
        if number and number % self._per_part == 0 and self._beton is not None:
            self._store_pending()
            self._beton.cut()

    def add(self, image: Encoded, label: int) -> None:
        """Appends an image."""
        self.labels.append(label)
        if isinstance(image.data, bytes):
            assert self._beton is not None
            assert image.histogram is not None
            self.levels += image.histogram
            self._digest.update(image.data)
            self._beton.add(image.data, "jpg", image.size, label)
            return
        self._pending.append((image.data, label))
        if len(self._pending) >= min(_TOGETHER, _MOST_PENDING // image.data.nbytes):
            self._store_pending()

    def close(self) -> str:
        """Completes the files; returns the SHA-256 of stored pixels and labels."""
        self._store_pending()
        for writer in (self._beton, self._tensors):
            if writer is not None:
                writer.close()
        if self.sender is not None and self._tensors is not None:
            self.sender.send_file(self._tensor_file)
        self._digest.update(np.asarray(self.labels, "<i8").tobytes())
        return self._digest.hexdigest()

    def _store_pending(self) -> None:
        if not self._pending:
            return
        images = np.ascontiguousarray(np.stack([pixels for pixels, _ in self._pending]))
        labels = np.array([label for _, label in self._pending], np.int64)
        self._pending.clear()
        self.levels += count_levels(images)
        self._digest.update(images.data)
        if self._tensors is not None:
            self._tensors.add(images, labels)
        if self._beton is not None:
            # FFCV knows RGB only.
            colour = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
            for pixels, label in zip(colour, labels, strict=True):
                self._beton.add(pixels.tobytes(), "raw", pixels.shape[:2], int(label))


def moments(levels: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation in [0, 1] of each channel from its grey levels."""
    values = np.arange(256) / 255
    weights = levels / levels.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), std.tolist()
