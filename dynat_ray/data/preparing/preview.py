"""The contact sheet `preview.png`: some images of each class, so that a person sees what is wrong.

Wrong labels, black images and images that lie on their side cost hours when training shows them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dynat_ray.data.preparing.image_files import Pixels
from dynat_ray.shown_text import shown_text

_SIDE = 64
_GAP = 4
_COLUMNS = {"train": 8, "test": 4}
_MOST_CLASSES = 40
_LABEL_WIDTH = 190
_HEADER = 28
_LONGEST_NAME = 24
_BACKGROUND = (214, 220, 228)
"""Neither black nor white nor grey, so that images that are stand out."""
_INK = (20, 20, 30)


class Preview:
    """Chooses images for the sheet, takes them as they come, and draws it."""

    def __init__(self, labels: dict[str, NDArray[np.int64]], classes: list[str]) -> None:
        """Chooses them.

        Args:
            labels: Labels of each split's images, in the order in which they come.
            classes: Names of the classes.
        """
        self._classes = classes
        self._splits = [split for split in _COLUMNS if split in labels]
        self._rows = _spread(len(classes), _MOST_CLASSES)
        self._places: dict[tuple[str, int], tuple[int, int]] = {}
        self._thumbnails: dict[tuple[str, int, int], Image.Image] = {}
        for split in self._splits:
            order = np.argsort(labels[split], kind="stable")
            starts = np.searchsorted(labels[split][order], np.arange(len(classes) + 1))
            for row, label in enumerate(self._rows):
                members = order[starts[label] : starts[label + 1]]
                for column, each in enumerate(_spread(len(members), _COLUMNS[split])):
                    self._places[split, int(members[each])] = row, column

    def wants(self, split: str, number: int) -> bool:
        """Returns whether the image that comes as `number` of its split is on the sheet."""
        return (split, number) in self._places

    def add(self, split: str, number: int, pixels: Pixels) -> None:
        """Takes an image `(H, W, C)` that is wanted. May be called from several threads."""
        row, column = self._places[split, number]
        self._thumbnails[split, row, column] = _thumbnail(pixels)

    def discard(self, split: str, number: int) -> None:
        """Takes an image off the sheet, if it is on it."""
        if place := self._places.get((split, number)):
            self._thumbnails.pop((split, *place), None)

    def save(self, file: Path, title: str) -> None:
        """Draws the sheet; `title` stands above it."""
        columns = sum(_COLUMNS[split] for split in self._splits)
        width = _LABEL_WIDTH + columns * (_SIDE + _GAP) + len(self._splits) * 3 * _GAP
        height = 2 * _HEADER + len(self._rows) * (_SIDE + _GAP) + _GAP
        sheet = Image.new("RGB", (width, height), _BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        font = _font()
        if len(self._rows) < len(self._classes):
            title += f" ({len(self._rows)} of {len(self._classes):,} classes)"
        draw.text((2 * _GAP, 6), shown_text(title, 100), _INK, font)
        for row, label in enumerate(self._rows):
            top = 2 * _HEADER + row * (_SIDE + _GAP)
            name = shown_text(self._classes[label], _LONGEST_NAME)
            draw.text((2 * _GAP, top + _SIDE // 2 - 8), f"{label}  {name}", _INK, font)
        left = _LABEL_WIDTH
        for split in self._splits:
            draw.text((left, _HEADER + 4), split, _INK, font)
            for (owner, row, column), image in self._thumbnails.items():
                if owner == split:
                    x = left + column * (_SIDE + _GAP) + (_SIDE - image.width) // 2
                    y = 2 * _HEADER + row * (_SIDE + _GAP) + (_SIDE - image.height) // 2
                    sheet.paste(image, (x, y))
            left += _COLUMNS[split] * (_SIDE + _GAP) + 3 * _GAP
        sheet.save(file)


def _spread(count: int, most: int) -> list[int]:
    """Returns up to `most` of `count` positions, from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _thumbnail(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = _SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    # Small images in whole blocks, as they are.
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _font() -> ImageFont.FreeTypeFont:
    # Pillow's own has Latin letters alone.
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 13)
