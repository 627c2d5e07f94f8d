"""EXIF orientation: which way up an image is."""

from __future__ import annotations

from typing import BinaryIO

from PIL import ExifTags, Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_MOST_CHUNKS = 100_000


def orientation(image: Image.Image) -> int:
    """Returns an image's EXIF orientation, 1 (upright) to 8; never decodes it."""
    try:
        # Not the image's own method: that of a PNG decodes it first.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # Damaged EXIF data make no bad image.
        return 1
    return found if found in _TURNS else 1


def lies_on_its_side(image: Image.Image, file: BinaryIO) -> bool:
    """Returns whether setting an image, just opened, upright swaps its sides.

    A PNG is decoded for that only if its metadata come after its pixels.
    """
    if image.format == "TIFF":
        # Pillow turns it itself, and gives the sides of the upright one.
        return False
    if image.format == "PNG" and _metadata_come_last(file):
        image.load()
    return orientation(image) in _SIDEWAYS


def set_upright(image: Image.Image, found: int) -> Image.Image:
    """Returns an image turned as its orientation asks for."""
    return image.transpose(_TURNS[found]) if found in _TURNS else image


def _metadata_come_last(file: BinaryIO) -> bool:
    """Returns whether a PNG has EXIF data or texts after its pixels."""
    before = file.tell()
    try:
        file.seek(8)
        pixels_seen = False
        for _ in range(_MOST_CHUNKS):
            start = file.read(8)
            kind = start[4:]
            if len(start) < 8 or kind == b"IEND":
                return False
            if pixels_seen and kind in _METADATA:
                return True
            pixels_seen |= kind == b"IDAT"
            file.seek(int.from_bytes(start[:4], "big") + 4, 1)
        return True
    finally:
        file.seek(before)
