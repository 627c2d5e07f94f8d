"""JPEG files as ImageNet has them, made from small images: a rehearsal needs no more than these."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

from dynat_ray.errors import UserError

CLASSES = 1000
_SIDE = 256
_LONGEST_SIDE = 384
_QUALITIES = (70, 93)
# A class's images are cut out of so many enlarged ones, side by side.
_ACROSS = 4
# In grey levels: enlarged images alone are so smooth that their files would be tiny.
_GRAIN = 12.0
_MIDDLE = 128
# A test split is so much smaller, as far as each class has an image in it.
_TRAINING_BY_TEST = 25


@dataclass(frozen=True)
class MadeSet:
    """How many images are made.

    Attributes:
        train: Training images.
        test: Test images.
        classes: Each has at least one of both.
    """

    train: int
    test: int
    classes: int

    @classmethod
    def of(cls, images: int) -> MadeSet:
        """Returns the set with so many training images, of 1,000 classes if they are enough."""
        classes = min(CLASSES, max(1, images // 4))
        return cls(images, max(classes, images // _TRAINING_BY_TEST), classes)


def make_images(source: Path, folder: Path, made: MadeSet) -> int:
    """Makes `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, the same each time, a process per core.

    The shorter side has 256 pixels, the longer one up to 384; quality and size vary, so that files
    are of about 10 to 40 kB. No two images have the same pixels, but many of a class overlap.

    Args:
        source: Folder of images of any size, which are enlarged.
        folder: Where to.
        made: How many.

    Returns:
        Bytes of all files.

    Raises:
        UserError: `source` has no images.
    """
    # Here, since the processes that make images need no PyTorch.
    from dynat_ray.benchmarks.turns import Progress

    sources = _sources(source)
    work = [
        _Work(folder / split, label, range(label, count, made.classes), tuple(own))
        for split, count, offset in (("train", made.train, 0), ("test", made.test, 1))
        for label, own in enumerate(_dealt(sources, made.classes, offset))
    ]
    tenth, total = -(-len(work) // 10), 0
    progress = Progress("images", len(work) // tenth)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        for number, size in enumerate(pool.map(_make_class, work, chunksize=4), start=1):
            total += size
            if number % tenth == 0:
                progress.done(f"{number:>5,} of {len(work):,} folders, {total / 1e9:.2f} GB")
    return total


def _sources(folder: Path) -> list[Path]:
    endings = {".jpg", ".jpeg", ".png"}
    found = sorted(each for each in folder.rglob("*") if each.suffix.lower() in endings)
    if not found:
        raise UserError(f"--data {folder} holds no JPEG or PNG files to make larger ones of")
    return found


def _dealt(sources: Sequence[Path], classes: int, offset: int) -> Iterator[list[Path]]:
    """Yields what each class is made of: neighbours, so that there is something to learn."""
    each = _ACROSS * _ACROSS
    for label in range(classes):
        first = label * len(sources) // classes + offset * each
        yield [sources[(first + place) % len(sources)] for place in range(each)]


@dataclass(frozen=True)
class _Work:
    """The images of a class in a split.

    Attributes:
        folder: Of the split.
        label: The class.
        numbers: Of the images, whose names and random numbers they are.
        sources: What they are made of.
    """

    folder: Path
    label: int
    numbers: range
    sources: tuple[Path, ...]


def _make_class(work: _Work) -> int:
    """Makes images; returns their bytes."""
    folder = work.folder / f"n{work.label:08d}"
    folder.mkdir(parents=True)
    picture, total = _side_by_side(work.sources), 0
    for number in work.numbers:
        random = np.random.default_rng((work.folder.name == "train", number))
        longer = int(random.integers(_SIDE, _LONGEST_SIDE + 1))
        height, width = (longer, _SIDE) if random.random() < 0.5 else (_SIDE, longer)
        top = random.integers(0, len(picture) - height + 1)
        left = random.integers(0, len(picture) - width + 1)
        file = folder / f"{number:07d}.jpg"
        image = Image.fromarray(picture[top : top + height, left : left + width])
        image.save(file, quality=int(random.integers(*_QUALITIES)))
        total += file.stat().st_size
    return total


def _side_by_side(sources: Sequence[Path]) -> NDArray[np.uint8]:
    """Returns enlarged images beside and below one another, with grain."""
    large = Image.new("RGB", (_ACROSS * _SIDE, _ACROSS * _SIDE))
    for place, source in enumerate(sources):
        with Image.open(source) as image:
            enlarged = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        large.paste(enlarged, (place % _ACROSS * _SIDE, place // _ACROSS * _SIDE))
    return np.asarray(ImageChops.add(large, _grain(), offset=-_MIDDLE))


@cache
def _grain() -> Image.Image:
    """Returns noise around the middle grey level."""
    noise = np.random.default_rng(0).normal(_MIDDLE, _GRAIN, (*2 * (_ACROSS * _SIDE,), 3))
    return Image.fromarray(noise.astype(np.uint8))


def files_of(folder: Path, split: str, each: int | None = None) -> Iterator[tuple[Path, int]]:
    """Yields the files of a split with their labels, class by class.

    Args:
        folder: Class folders in `train` and `test`.
        split: Which.
        each: How many of each class, at most; None: all.
    """
    for label, name in enumerate(sorted(own.name for own in (folder / split).iterdir())):
        for file in islice(sorted((folder / split / name).iterdir()), each):
            yield file, label
