"""The first look at all images of a source, before any is stored: what they are, which are bad."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import numpy as np

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing.deep_pixels import DeepImages
from dynat_ray.data.preparing.image_files import BadImage, Header
from dynat_ray.data.preparing.image_sets import ImageSet
from dynat_ray.data.preparing.parallel import ordered_map
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.subsets import Indices
from dynat_ray.errors import UserError
from dynat_ray.prepare_options import PrepareOptions

UNREADABLE = "unreadable files (--skip-bad)"
Result = TypeVar("Result")


class Inspection:
    """What the headers of all images say.

    Attributes:
        chosen: Positions of the images that have one, for each split.
        channels: 1 if all are grey, else 3.
        sizes: Heights and widths that occur.
        deep: Those of more than 8 bits.
        left_out: Those that have none.
        converted: What becomes of some when they are read.
    """

    def __init__(
        self,
        source: Source,
        chosen: dict[str, Indices],
        options: PrepareOptions,
        look: Callable[[], object],
    ) -> None:
        """Reads them.

        Args:
            source: Whose images.
            chosen: Positions of those to look at, for each split.
            options: What was asked for.
            look: Called for each image.

        Raises:
            UserError: Some have none, and are not to be left out.
        """
        self.chosen: dict[str, Indices] = {}
        self.channels = 1
        self.sizes: set[tuple[int, int]] = set()
        self.deep = DeepImages()
        self.left_out = Tally()
        self.converted = Tally()
        self._source = source
        self._colour_behind = len(set(options.background_colour)) > 1
        for split, positions in chosen.items():
            images = source.splits[split]
            keep = np.ones(len(positions), dtype=bool)
            with closing(ordered_map(guarded(images.header), positions)) as headers:
                for number, found in enumerate(headers):
                    look()
                    if isinstance(found, BadImage):
                        keep[number] = False
                        self.left_out.add(UNREADABLE, str(found))
                    else:
                        self._take(images, int(positions[number]), found)
            self.chosen[split] = positions[keep]
        if self.left_out.findings() and not options.skip_bad:
            raise self._refusal(chosen)

    def losses(self, chosen: dict[str, Indices]) -> list[str]:
        """Returns which classes lose more than half of their images, a sentence each."""
        found = []
        for split, positions in chosen.items():
            images = self._source.splits[split]
            before, after = (
                np.bincount(images.labels[each], minlength=len(self._source.classes))
                for each in (positions, self.chosen[split])
            )
            found += [
                f"{before[label] - after[label]:,} of {before[label]:,} {split} images of class "
                f"'{self._source.classes[label]}'"
                for label in np.flatnonzero(2 * after < before)
            ]
        return found

    def _take(self, images: ImageSet, position: int, header: Header) -> None:
        colour = header.transparent and self._colour_behind
        self.channels = max(self.channels, 3 if colour else header.channels)
        self.sizes.add(header.size)
        for what in header.converted:
            self.converted.add(what, images.name(position))
        if header.deep is not None:
            self.deep.add(images.name(position), header.deep)

    def _refusal(self, chosen: dict[str, Indices]) -> UserError:
        (bad,) = self.left_out.findings()
        more = f" and {bad.count - 1:,} more" if bad.count > 1 else ""
        which = f"cannot read image {bad.examples[0]}{more}"
        if losses := self.losses(chosen):
            return UserError(f"{which}, {losses[0]} among them; repair or convert them")
        them = "them" if more else "it"
        return UserError(f"{which}; repair {them}, or leave such out: --skip-bad")


def guarded(function: Callable[[int], Result]) -> Callable[[int], Result | BadImage]:
    """Returns `function` with `BadImage` as a result instead of an exception."""

    def run(position: int) -> Result | BadImage:
        try:
            return function(int(position))
        except BadImage as bad:
            return bad

    return run
