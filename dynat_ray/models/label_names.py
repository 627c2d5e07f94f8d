"""Whether two lists of classes are the same: by name and order, as many are not enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from unicodedata import normalize

from dynat_ray.shown_text import shown_text

_SHOWN = 60


class Difference(NamedTuple):
    """The first class that two lists do not share.

    Attributes:
        place: Its position, the label.
        first: Its name in the first list, fit to be shown.
        second: Its name in the second.
    """

    place: int
    first: str
    second: str


def first_difference(first: Sequence[str], second: Sequence[str]) -> Difference | None:
    """Returns the first class that differs; None: all are alike, or a list is empty (not known).

    Args:
        first: Names of classes, in the order of their labels.
        second: The same; as many.
    """
    for place, names in enumerate(zip(first, second, strict=False)):
        # One name has two forms in Unicode, of which file systems keep one or the other.
        if len({normalize("NFC", name) for name in names}) > 1:
            return Difference(place, *(shown_text(name, _SHOWN) for name in names))
    return None
