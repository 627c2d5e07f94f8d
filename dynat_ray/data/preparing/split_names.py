"""Which part of a source is the training split, and which the test split."""

from __future__ import annotations

import re
from collections.abc import Collection

from dynat_ray.data.account import Tally
from dynat_ray.errors import UserError

TEST_NAMES = ("test", "val", "valid", "validation")
_SPLIT = re.compile(r"(?<![a-z])(train|test|val|valid|validation)(?:ing)?(?![a-z])")


def split_named_by(path: str) -> str:
    """Returns the split that a path names last, such as `val` of `data/val-00001.tar`; or none."""
    found = _SPLIT.findall(path.lower())
    return found[-1] if found else ""


def choose_test(found: Collection[str]) -> str:
    """Returns which of the splits is the test split; empty: none is."""
    return next((name for name in TEST_NAMES if name in found), "")


def choose_splits(shown: str, found: dict[str, int], left_out: Tally) -> dict[str, str]:
    """Chooses training and test split of those that a source has.

    Args:
        shown: What to call the source in errors.
        found: Samples of each split that it has.
        left_out: Counts those of the others.

    Returns:
        `train` and `test`, with what the source calls them.

    Raises:
        UserError: One of them is not there.
    """
    test = choose_test(found)
    if "train" not in found or not test:
        lacking = "no test split (test or val)" if "train" in found else "no training split (train)"
        there = ", ".join(name or "files whose names say no split" for name in found)
        raise UserError(f"{shown} has {lacking}, only: {there}; names or columns must say it")
    for name, count in found.items():
        if name not in ("train", test):
            left_out.add(f"samples of {name or 'no'} split: the test split is {test}", name, count)
    return {"train": "train", "test": test}
