"""Pixels of more than 8 bits: whole numbers of up to 32 bits, and floating-point ones.

Nothing in such a file says which value is white: 12 bits come in files of 16, and floats go to 1,
255 or 65535. So one scale is chosen for all images of a data set, from the largest value that
occurs or from `--bit-depth`. Formats that do say it (PGM, JPEG 2000, AVIF) are scaled by Pillow.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from dynat_ray.data.account import Finding, Tally
from dynat_ray.errors import UserError

Values = NDArray[Any]

_GREY = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_OTHER_BYTES = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
_COLOURS = ("RGB", "RGBA")
_ALPHA_WHITE = 65535
_DARK = 16
"""Grey levels of 255 that some image of a data set should reach."""
_UP_TO_ONE = 1.01
"""Floating-point numbers up to 1 may be a little above it."""


@dataclass(kw_only=True)
class DeepRange:
    """The values of one image of more than 8 bits.

    Attributes:
        largest: The largest, transparency aside.
        floating: Whether they are floating-point numbers.
    """

    largest: float
    floating: bool


def is_deep(image: Image.Image) -> bool:
    """Returns whether an image, not loaded yet, has more than 8 bits a channel.

    Pillow drops half of the bits of such colours without a word.
    """
    raw = raw_mode(image)
    return image.mode in _GREY or raw.partition(";")[2] in _OTHER_BYTES or _ppm_white(image) > 255


def deep_range(image: Image.Image, file: BinaryIO) -> DeepRange:
    """Returns the range of an image that `is_deep`; decodes it.

    Raises:
        ValueError: Its values are negative or not finite, or are kept in a way that can't be read.
    """
    values, _ = _read(image, file)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("some of its pixels are not finite numbers")
    if values.min() < 0:
        raise ValueError("some of its pixels are negative, or beyond 31 bits")
    return DeepRange(largest=float(values.max()), floating=values.dtype.kind == "f")


def to_eight_bits(image: Image.Image, file: BinaryIO, white: float) -> Image.Image:
    """Returns an image that `is_deep` with 8 bits a channel: `white` becomes 255."""
    values, alpha = _read(image, file)
    info = {key: value for key, value in image.info.items() if key != "transparency"}
    levels = _levels(values, white)
    if alpha is not None:
        grey_too = levels if levels.ndim == 3 else levels[..., None]
        alpha_white = white if alpha.max() <= white else _ALPHA_WHITE
        levels = np.concatenate([grey_too, _levels(alpha, alpha_white)[..., None]], axis=2)
    made = Image.fromarray(levels)
    made.info = info
    return made


class DeepImages:
    """The images of more than 8 bits of a data set.

    Attributes:
        largest: Their largest value.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self._tally = Tally()
        self._brightest = ""
        self._first: dict[bool, str] = {}

    def add(self, name: str, found: DeepRange) -> None:
        """Takes note of an image."""
        self._tally.add("", name)
        self._first.setdefault(found.floating, name)
        if found.largest >= self.largest:
            self.largest, self._brightest = found.largest, name

    def white(self, bit_depth: int | None) -> float:
        """Returns the value that stands for white in all of them.

        Args:
            bit_depth: What `--bit-depth` says; None: it follows from the largest value.

        Raises:
            UserError: No scale makes sense for all of them.
        """
        fractions = True in self._first and self.largest <= _UP_TO_ONE
        bits = int(np.ceil(self.largest)).bit_length()
        if bit_depth is None:
            if len(self._first) == 2:
                raise UserError(
                    f"{self._first[True]} holds floating-point numbers and {self._first[False]} "
                    "whole ones of more than 8 bits; give the --bit-depth of both, or convert them "
                    "to one kind"
                )
            white = 1.0 if fractions else float(2 ** max(8, bits) - 1)
            if True in self._first and self.darkness(white):
                raise UserError(
                    f"{self._brightest} holds floating-point numbers up to {self.largest:g}, which "
                    "is the largest of all; which value is white? Convert them to 8 bits"
                )
            return white
        white = float(2**bit_depth - 1)
        if not self._first and bit_depth != 8:
            raise UserError(
                f"--bit-depth {bit_depth} is senseless: no image has more than 8 bits; leave it out"
            )
        if fractions:
            raise UserError(
                f"--bit-depth {bit_depth} is senseless: pixels are floating-point numbers up to "
                f"{self.largest:g}, of which 1 is white; leave it out"
            )
        if self.largest > white:
            raise UserError(
                f"{self._brightest} has the value {self.largest:g}, which does not fit into "
                f"--bit-depth {bit_depth}; give --bit-depth {bits}, or leave it out"
            )
        return white

    def described(self, white: float) -> list[Finding]:
        """Returns what was done to them, if anything was."""
        found = self._tally.findings() if white != 255 else []
        for each in found:
            each.what = (
                f"images of more than 8 bits, all scaled by 255/{white:.0f} (their largest value "
                f"is {self.largest:g})"
            )
        return found

    def darkness(self, white: float) -> str:
        """Returns a warning if the scale makes all of them nearly black; else nothing."""
        reached = 255 * self.largest / white
        if not self._first or reached >= _DARK:
            return ""
        return (
            f"no image of more than 8 bits is brighter than {reached:.1f} of 255: their largest "
            f"value is {self.largest:g}; is --bit-depth right?"
        )


def _levels(values: Values, white: float) -> NDArray[np.uint8]:
    scaled = np.multiply(values, 255 / white, dtype=np.float32)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _read(image: Image.Image, file: BinaryIO) -> tuple[Values, Values | None]:
    """Returns grey values `(H, W)` or colours `(H, W, 3)`, and transparency `(H, W)` if any."""
    kind, _, order = raw_mode(image).partition(";")
    if image.mode in _GREY:
        image.load()
        values = np.asarray(image)
    elif white := _ppm_white(image):
        values = np.rint(_ppm_values(image, file) * (65535 / white)).clip(0, 65535)
        values = values.astype(np.uint16)
    elif kind == "LA":
        pairs = _bytes(image, "RGBA").astype(np.uint16)
        return pairs[..., 0] << 8 | pairs[..., 1], pairs[..., 2] << 8 | pairs[..., 3]
    elif kind in (*_COLOURS, "RGBX") and image.mode in _COLOURS:
        image.load()
        file.seek(0)
        with Image.open(file, formats=[image.format or ""]) as again:
            low = _bytes(again, f"{kind};{_OTHER_BYTES[order]}")
        values = np.asarray(image).astype(np.uint16) << 8 | low
        if image.mode == "RGBA":
            return values[..., :3], values[..., 3]
    else:
        raise ValueError(f"its {image.mode} pixels have 16 bits a channel; convert them to 8")
    return values, _keyed_alpha(image, values)


def _ppm_white(image: Image.Image) -> int:
    """Returns the value that a PPM of colours says is white; 0 for all else."""
    if image.format != "PPM" or image.mode != "RGB" or not _tiles(image):
        return 0
    codec, _, _, arguments = _tiles(image)[0]
    return int(arguments[1]) if codec == "ppm" else 0


def _ppm_values(image: Image.Image, file: BinaryIO) -> Values:
    """Returns the colours of a PPM of 16 bits, of which Pillow drops half."""
    width, height = image.size
    file.seek(_tiles(image)[0][2])
    values = np.frombuffer(file.read(width * height * 6), ">u2")
    if len(values) < width * height * 3:
        raise ValueError("image file is truncated")
    return values.reshape(height, width, 3)


def _keyed_alpha(image: Image.Image, values: Values) -> Values | None:
    """Returns the transparency of a PNG in which one colour stands for it."""
    key = image.info.get("transparency")
    if not isinstance(key, int | tuple):
        return None
    same = values == np.asarray(key)
    clear = same if same.ndim == 2 else same.all(axis=2)
    return np.where(clear, 0, _ALPHA_WHITE)


def _bytes(image: Image.Image, raw_mode: str) -> NDArray[np.uint8]:
    """Returns the pixels of an image that is not loaded yet, unpacked in another way."""
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))
        for tile in _tiles(image)
    ]
    image.load()
    return np.asarray(image)


def raw_mode(image: Image.Image) -> str:
    """Returns how the file of an image, not loaded yet, keeps its pixels, in Pillow's words."""
    given = _tiles(image)[0][3] if _tiles(image) else ""
    first = given[0] if isinstance(given, tuple) and given else given
    return first if isinstance(first, str) else ""


def _tiles(image: Image.Image) -> list[Any]:
    """Returns where and how the pixels of an image lie in its file."""
    return getattr(image, "tile", [])
