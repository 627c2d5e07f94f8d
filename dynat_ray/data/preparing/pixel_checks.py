"""What pixels say of a data set: images of one colour, and the same image several times."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.account import Tally, listed
from dynat_ray.data.preparing.image_files import Pixels

_EXAMPLES = 3
_LEAKED = "train images with the pixels of a test image (--drop-duplicates)"
_REPEATED = "train images with the pixels of another train image (--drop-duplicates)"


@dataclass(frozen=True)
class PixelMarks:
    """What is kept of an image's pixels.

    Attributes:
        fingerprint: 64 bits of their checksum.
        constant: Whether all of them are the same.
    """

    fingerprint: int
    constant: bool


def mark(pixels: Pixels) -> PixelMarks:
    """Looks at one image `(H, W, C)`. Runs in a thread; its slow part releases the lock."""
    digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(pixels).data)
    first = pixels[0, 0]
    # Hardly any image gets beyond its first row.
    constant = bool((pixels[0] == first).all() and (pixels == first).all())
    return PixelMarks(int.from_bytes(digest.digest(), "little"), constant)


class PixelChecks:
    """The images of all splits that were stored.

    Attributes:
        dropped: Those that were not, being duplicates.
    """

    def __init__(self, names: dict[str, Callable[[int], str]], drop: bool) -> None:
        """Starts with none.

        Args:
            names: What to call the image at a position, for each split.
            drop: Refuse training images that are there already; then test images come first.
        """
        self.dropped = Tally()
        self._names = names
        self._drop = drop
        self._known: dict[int, tuple[str, int]] = {}
        self._constant = {split: Tally() for split in names}
        self._prints = {split: array("Q") for split in names}
        self._positions = {split: array("q") for split in names}
        self._labels = {split: array("l") for split in names}

    def accept(self, split: str, position: int, label: int, marks: PixelMarks) -> bool:
        """Takes note of an image; returns whether to store it."""
        if self._drop:
            known = self._known.setdefault(marks.fingerprint, (split, position))
            if split == "train" and known != (split, position):
                what = _REPEATED if known[0] == "train" else _LEAKED
                same = self._names[known[0]](known[1])
                self.dropped.add(what, f"{self._names[split](position)} = {same}")
                return False
        if marks.constant:
            self._constant[split].add("", self._names[split](position))
        self._prints[split].append(marks.fingerprint)
        self._positions[split].append(position)
        self._labels[split].append(label)
        return True

    def warnings(self) -> list[str]:
        """Returns what a person should look at."""
        found = []
        for split, constant in self._constant.items():
            for each in constant.findings():
                found.append(
                    f"{split} images whose pixels are all the same: {each.count:,} of "
                    f"{len(self._prints[split]):,} ({listed(each.examples, each.count)})"
                )
        prints, labels = (
            np.concatenate([np.asarray(each) for each in columns.values()])
            for columns in (self._prints, self._labels)
        )
        _, group, size = np.unique(prints, return_inverse=True, return_counts=True)
        return found + (self._duplicates(group, size, labels) if size.max(initial=1) > 1 else [])

    def _duplicates(
        self, group: NDArray[np.intp], size: NDArray[np.intp], labels: NDArray[np.int64]
    ) -> list[str]:
        """Returns what there is to say of images with the same pixels.

        Args:
            group: Which of the different ones each image is, in the order of the splits.
            size: How often each of them occurs.
            labels: Label of each image.
        """
        train = np.repeat(
            [split == "train" for split in self._prints], [*map(len, self._prints.values())]
        )
        in_train = np.bincount(group[train], minlength=len(size))
        counts = {"train": in_train, "test": size - in_train}
        found = []
        for split, count in counts.items():
            if more := int((count - 1).clip(0).sum()):
                among = train if split == "train" else ~train
                advice = "; --drop-duplicates keeps one of each" if split == "train" else ""
                found.append(
                    f"{split} images with the pixels of another {split} image: {more:,} "
                    f"({self._pairs(np.flatnonzero(count > 1), group, among)}){advice}"
                )
        both = (in_train > 0) & (counts["test"] > 0)
        if leaked := int(in_train[both].sum()):
            found.append(
                f"train images with the pixels of a test image, so that the test says too much: "
                f"{leaked:,} ({self._pairs(np.flatnonzero(both), group)}); --drop-duplicates takes "
                "them out of train"
            )
        lowest = np.full(len(size), np.iinfo(np.int64).max)
        np.minimum.at(lowest, group, labels)
        unlike = np.unique(group[labels != lowest[group]])
        if len(unlike):
            found.append(
                f"images that are in several classes: {len(unlike):,} "
                f"({self._pairs(unlike, group)})"
            )
        return found

    def _pairs(
        self,
        groups: NDArray[np.intp],
        group: NDArray[np.intp],
        among: NDArray[np.bool_] | bool = True,
    ) -> str:
        """Returns the first of some groups by the names of two of their images."""
        shown = []
        for each in groups[:_EXAMPLES]:
            where = np.flatnonzero((group == each) & among)
            shown.append(f"{self._name(where[0])} = {self._name(where[-1])}")
        return listed(shown, len(groups), _EXAMPLES)

    def _name(self, index: int) -> str:
        for split, positions in self._positions.items():
            if index < len(positions):
                return self._names[split](positions[index])
            index -= len(positions)
        raise AssertionError
