"""Reading one image file into pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dynat_ray.data.preparing.deep_pixels import (
    DeepRange,
    deep_range,
    is_deep,
    raw_mode,
    to_eight_bits,
)
from dynat_ray.data.preparing.orientation import lies_on_its_side, orientation, set_upright

Pixels = NDArray[np.uint8]

TURNED = "images set upright, as their EXIF orientation says"
FIRST_FRAME = "files of several frames or pages, of which the first is taken"
TRANSPARENT = "images with transparency laid on a background"
OTHER_COLOURS = "images of other colours (CMYK, YCbCr, ...) brought to RGB"
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_PLAIN_MODES = _GREY_MODES | {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX"}
_FORMATS = frozenset(
    {"AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
)
"""What images come in. Pillow reads more, PostScript among them, for which it runs Ghostscript."""


class BadImage(Exception):
    """An image file that cannot be read. `str()` gives the file and the reason."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is known of an image before its pixels are wanted.

    Attributes:
        channels: 1 or 3.
        size: Height and width of the upright image.
        transparent: Whether some of its pixels may be.
        deep: The range of its values, if they have more than 8 bits.
        converted: What becomes of it when it is read.
    """

    channels: int
    size: tuple[int, int]
    transparent: bool = False
    deep: DeepRange | None = None
    converted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What images are read as.

    Attributes:
        channels: 1 or 3.
        side: Resize the shorter side to so many pixels and crop the centre; 0: as it is.
        white: The value that becomes 255 in images of more than 8 bits.
        background: RGB colour behind what is transparent.
    """

    channels: int
    side: int = 0
    white: float = 65535.0
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class Decoded:
    """An image that was read.

    Attributes:
        pixels: uint8 `(H, W, C)`.
        converted: What was done to it.
    """

    pixels: Pixels
    converted: tuple[str, ...] = ()


def read_header(file: BinaryIO, name: str) -> Header:
    """Reads what an image is; decodes it only if its pixels have more than 8 bits.

    Args:
        file: The file.
        name: What errors call it.

    Raises:
        BadImage: It is no image, holds values that can't be scaled, or declares an absurd size
            (Pillow refuses those).
    """
    try:
        with Image.open(file, formats=_known_formats()) as image:
            width, height = image.size
            channels = 1 if _is_grey(image) else 3
            deep = deep_range(image, file) if is_deep(image) else None
            if lies_on_its_side(image, file):
                width, height = height, width
            return Header(
                channels=channels,
                size=(height, width),
                transparent=image.has_transparency_data,
                deep=deep,
                converted=(FIRST_FRAME,) if _has_more_frames(image) else (),
            )
    except MemoryError:
        raise
    except Exception as error:  # Decoders raise anything on damaged files.
        raise _bad(name, error) from None


def read_pixels(file: BinaryIO, name: str, wanted: Wanted) -> Decoded:
    """Decodes an image file and sets it upright, as its EXIF orientation says.

    Args:
        file: The file.
        name: What errors call it.
        wanted: What to make of it.

    Raises:
        BadImage: The file is damaged, truncated or no image.
    """
    try:
        with Image.open(file, formats=_known_formats()) as image:
            side, converted = wanted.side, []
            if side and min(image.size) > side:
                # A JPEG decoder can halve sizes on the way, which is much cheaper.
                width, height = image.size
                shorter = min(width, height)
                image.draft(None, (-(-width * side // shorter), -(-height * side // shorter)))
            # Pillow turns TIFF itself while it loads it, and then knows no more of it.
            turned = image.format == "TIFF" and orientation(image) != 1
            plain = to_eight_bits(image, file, wanted.white) if is_deep(image) else image
            plain.load()
            if plain.mode not in _PLAIN_MODES:
                converted.append(OTHER_COLOURS)
            opaque, shone_through = _without_transparency(plain, wanted.background)
            if shone_through:
                converted.append(TRANSPARENT)
            coloured = opaque.convert("L" if wanted.channels == 1 else "RGB")
            shrunk = shrink(coloured, side) if side else coloured
            if image.format != "TIFF":
                turned = orientation(image) != 1
                shrunk = set_upright(shrunk, orientation(image))
            if turned:
                converted.append(TURNED)
            return Decoded(_as_array(shrunk), tuple(converted))
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


def _is_grey(image: Image.Image) -> bool:
    # Pillow says RGBA of a grey PNG of 16 bits with transparency.
    return image.mode in _GREY_MODES or raw_mode(image).startswith("LA;")


def _has_more_frames(image: Image.Image) -> bool:
    # The second picture in a photo of some telephones is no part of it.
    if image.format == "MPO":
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception:  # What follows the first frame may be damaged.
        return True


def _without_transparency(
    image: Image.Image, background: tuple[int, int, int]
) -> tuple[Image.Image, bool]:
    """Returns an image laid on a colour, and whether any pixel of it shows what is behind."""
    if not image.has_transparency_data:
        return image, False
    if image.mode == "La":  # Premultiplied, which Pillow makes only LA of.
        image = image.convert("LA")
    grey = image.mode in ("L", "LA", "1") and len(set(background)) == 1
    layers = image.convert("LA" if grey else "RGBA")
    colours, alpha = layers.convert("L" if grey else "RGB"), layers.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return colours, False
    behind = Image.new(colours.mode, image.size, background[0] if grey else background)
    return Image.composite(colours, behind, alpha), True


def _as_array(image: Image.Image) -> Pixels:
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _bad(name: str, error: Exception) -> BadImage:
    known = isinstance(error, UnidentifiedImageError)
    return BadImage(f"{name} ({'not an image' if known else error or type(error).__name__})")
