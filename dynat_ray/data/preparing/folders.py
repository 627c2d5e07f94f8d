"""Class folders: `train/CLASS/...` and `test/CLASS/...` (or `val/CLASS/...`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from dynat_ray.data.preparing.file_stores import FileStore
from dynat_ray.data.preparing.image_sets import FileImages, ImageSet
from dynat_ray.errors import UserError

_TEST_NAMES = ("test", "val", "valid", "validation")

ByClass = dict[str, list[PurePosixPath]]


def read_class_folders(store: FileStore) -> tuple[list[str], dict[str, ImageSet]]:
    """Finds the images of class folders.

    Whatever lies outside class folders is ignored. `test/` is the test split; without it `val/`
    (or `valid/`, `validation/`) is. All may lie inside one folder, or several, of their own.

    Args:
        store: The files.

    Returns:
        Class names, and the splits.

    Raises:
        UserError: A split is missing or empty, or the splits have different classes.
    """
    expected = "expected class folders under train/ and under val/ or test/ (train/CLASS/IMAGE)"
    splits = _find_splits(store.names)
    train = splits.get("train", {})
    if not train:
        raise UserError(f"{store.shown} has no images under train; {expected}")
    test = next((splits[name] for name in _TEST_NAMES if name in splits), {})
    if not test:
        raise UserError(f"{store.shown} has no images under test or val; {expected}")
    if train.keys() != test.keys():
        sides = [("train", train.keys() - test.keys()), ("test", test.keys() - train.keys())]
        listed = "; ".join(f"only in {side}: {_some(names)}" for side, names in sides if names)
        raise UserError(f"{store.shown}: train and test have different classes; {listed}")
    classes = sort_classes(train)

    def label(files: ByClass) -> FileImages:
        pairs = [(file, label) for label, name in enumerate(classes) for file in files[name]]
        return FileImages(store, [file for file, _ in pairs], [label for _, label in pairs])

    return classes, {"train": label(train), "test": label(test)}


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sorts class names, by value if all of them are numbers."""
    known = sorted(names)
    if all(name.isascii() and name.isdigit() for name in known):
        return sorted(known, key=int)
    return known


def _find_splits(names: list[PurePosixPath]) -> dict[str, ByClass]:
    """Returns the files of each class of each top folder, sorted, below any outer folder."""
    paths = sorted(name.parts for name in names)
    depth = 0
    while (tops := {parts[depth] for parts in paths if len(parts) > depth + 1}) and (
        "train" not in tops and len(tops) == 1
    ):
        depth += 1
    splits: dict[str, ByClass] = defaultdict(lambda: defaultdict(list))
    for parts in paths:
        if len(parts) >= depth + 3:
            splits[parts[depth]][parts[depth + 1]].append(PurePosixPath(*parts))
    return splits


def _some(names: set[str]) -> str:
    listed = sort_classes(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
