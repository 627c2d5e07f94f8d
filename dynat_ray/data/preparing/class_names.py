"""Names of classes: their order, and what may be wrong with them."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from dynat_ray.data.account import listed
from dynat_ray.data.info import ClassOrder

_SHOWN = 4


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sorts class names, by value if all of them are numbers."""
    known = sorted(names)
    if all(name.isascii() and name.isdigit() for name in known):
        return sorted(known, key=int)
    return known


def order_of(classes: list[str]) -> ClassOrder:
    """Returns what the order of some classes follows."""
    if classes == sorted(classes):
        return "text"
    return "number" if classes == sort_classes(classes) else "source"


def notes_on_order(classes: list[str]) -> list[str]:
    """Returns a sentence if other tools give the classes other labels."""
    if order_of(classes) != "number":
        return []
    as_text = sorted(classes)
    first = next(i for i, pair in enumerate(zip(classes, as_text, strict=True)) if len({*pair}) > 1)
    start = max(0, first - 1)
    ours, theirs = (", ".join(each[start : start + _SHOWN]) for each in (classes, as_text))
    return [
        f"class names are numbers and sorted by value: from label {start} on {ours}; tools that "
        f"sort them as text have {theirs} there"
    ]


def warnings_on_names(classes: list[str]) -> list[str]:
    """Returns a sentence if some names differ so little that one class may be meant."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFKC", name).casefold().strip()].append(name)
    pairs = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    if not pairs:
        return []
    return [
        f"classes that differ in upper and lower case or spaces alone: {listed(pairs, len(pairs))}"
    ]
