"""Reading one image file into pixels."""

from __future__ import annotations

from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]

_WIDE_MODES = frozenset({"I", "I;16", "I;16B", "I;16L"})
_GREY_MODES = frozenset({"1", "L", "LA", "La"}) | _WIDE_MODES
_UPRIGHT = frozenset({"TIFF", "PNG"})
"""Formats whose EXIF orientation is left alone: Pillow turns TIFF itself, and would have to decode
a PNG, which hardly ever has one, to know the size of the upright image."""


_FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
)
"""What images come in. Pillow reads more, PostScript among them, for which it runs Ghostscript."""


class BadImage(Exception):
    """An image file that cannot be read. `str()` gives the file and the reason."""


def read_header(file: BinaryIO, name: str) -> tuple[int, tuple[int, int]]:
    """Returns channels (1 or 3) and (height, width) of an image file without decoding it.

    Height and width are those of the upright image. `name` is what errors call it.

    Raises:
        BadImage: It is no image, holds floating-point numbers, or declares an absurd size (Pillow
            refuses those).
    """
    try:
        with Image.open(file, formats=_known_formats()) as image:
            width, height = image.size
            channels = 1 if image.mode in _GREY_MODES else 3
            if image.format not in _UPRIGHT and _lies_on_its_side(image):
                width, height = height, width
            if image.mode == "F":
                raise ValueError("its pixels are floating-point numbers; convert them to 8 bits")
    except MemoryError:
        raise
    except Exception as error:  # Decoders raise anything on damaged files.
        raise _bad(name, error) from None
    return channels, (height, width)


def read_pixels(file: BinaryIO, name: str, channels: int, side: int = 0) -> Pixels:
    """Decodes an image file and sets it upright, as its EXIF orientation says.

    Args:
        file: The file.
        name: What errors call it.
        channels: 1 or 3: what to convert to.
        side: Resize the shorter side to so many pixels and crop the centre; 0: as it is.

    Returns:
        uint8 `(H, W, channels)`.

    Raises:
        BadImage: The file is damaged, truncated or no image.
    """
    try:
        with Image.open(file, formats=_known_formats()) as image:
            if side and min(image.size) > side:
                # A JPEG decoder can halve sizes on the way, which is much cheaper.
                width, height = image.size
                shorter = min(width, height)
                image.draft(None, (-(-width * side // shorter), -(-height * side // shorter)))
            image.load()
            converted = _convert(image, channels)
            shrunk = shrink(converted, side) if side else converted
            if image.format not in _UPRIGHT:
                _set_upright(shrunk)
            return _as_array(shrunk)
    except MemoryError:
        raise
    except Exception as error:  # Decoders raise anything on damaged files.
        raise _bad(name, error) from None


def resize_pixels(pixels: Pixels, side: int) -> Pixels:
    """Resizes the shorter side of `(H, W, C)` to `side` and crops the centre; C is 1 or 3."""
    if pixels.shape[:2] == (side, side):
        return pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return _as_array(shrink(image, side))


def shrink(image: Image.Image, side: int) -> Image.Image:
    """Resizes the shorter side to `side` pixels (bicubic, antialiased) and crops the centre."""
    width, height = image.size
    shorter = min(width, height)
    left, top = (width - shorter) / 2, (height - shorter) / 2
    if (width, height) == (side, side):
        return image
    box = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)


@cache
def _known_formats() -> list[str]:
    """Returns those of the formats that this Pillow was built with."""
    Image.init()
    return sorted(_FORMATS & Image.OPEN.keys())


def _lies_on_its_side(image: Image.Image) -> bool:
    """Returns whether setting an image upright swaps its sides; never decodes it."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except Exception:  # Damaged EXIF data make no bad image.
        return False


def _set_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except MemoryError:
        raise
    except Exception:
        # As above; or Pillow has turned the image and can't write its other EXIF data back.
        return


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode in _WIDE_MODES:
        # 16-bit grey; Pillow would clip it to 255. Mode I may also hold 8-bit values in 32 bits.
        values = np.asarray(image).astype(np.int64)
        if image.mode != "I" or values.max() > 255:
            values >>= 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def _as_array(image: Image.Image) -> Pixels:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _bad(name: str, error: Exception) -> BadImage:
    known = isinstance(error, UnidentifiedImageError)
    return BadImage(f"{name} ({'not an image' if known else error or type(error).__name__})")
