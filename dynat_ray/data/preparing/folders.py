"""Class folders: `train/CLASS/...` and `test/CLASS/...` (or `val/CLASS/...`)."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from dynat_ray.data.account import Tally, listed
from dynat_ray.data.preparing.class_names import sort_classes
from dynat_ray.data.preparing.file_stores import FileStore
from dynat_ray.data.preparing.image_sets import FileImages
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import TEST_NAMES, choose_test
from dynat_ray.errors import UserError

_EXPECTED = "expected class folders under train/ and under val/ or test/ (train/CLASS/IMAGE)"

ByClass = dict[str, list[PurePosixPath]]


def read_class_folders(name: str, store: FileStore) -> Source:
    """Finds the images of class folders.

    What lies outside class folders is left out. `test/` is the test split; without it `val/` (or
    `valid/`, `validation/`) is. All may lie inside one folder, or several, of their own. Names of
    classes are the same if Unicode says so, however their letters are composed (NFC). A file counts
    once, whatever links lead to it.

    Args:
        name: Of the data set.
        store: The files.

    Raises:
        UserError: A split is missing or empty, or the splits have different classes.
    """
    left_out = Tally()
    left_out.include(store.left_out)
    found = _find_splits(store, left_out)
    train = found.get("train", {})
    if not train:
        raise UserError(f"{store.shown} has no images under train; {_EXPECTED}")
    test_name = choose_test(found)
    if not test_name:
        raise UserError(f"{store.shown} has no images under test or val; {_EXPECTED}")
    for other in sorted(found.keys() - {"train", test_name}):
        files = [file for inner in found[other].values() for file in inner]
        what = f"files under {other}, which is not the test split: {test_name} is"
        left_out.add(
            what if other in TEST_NAMES else f"files under {other}, which is no split",
            str(files[0]),
            len(files),
        )
    splits = {"test": found[test_name], "train": train}
    notes = _compose_names(splits)
    if splits["train"].keys() != splits["test"].keys():
        raise _different_classes(store, splits["train"].keys(), splits["test"].keys())
    if store.real:
        _count_once(store, splits, left_out)
    classes = sort_classes(splits["train"])

    def label(files: ByClass) -> FileImages:
        pairs = [(file, label) for label, name in enumerate(classes) for file in files[name]]
        return FileImages(store, [file for file, _ in pairs], [label for _, label in pairs])

    return Source(
        name=name,
        classes=classes,
        splits={split: label(splits[split]) for split in ("train", "test")},
        left_out=left_out,
        notes=notes,
    )


def _find_splits(store: FileStore, left_out: Tally) -> dict[str, ByClass]:
    """Returns the files of each class of each top folder, sorted, below any outer folder."""
    paths = sorted(name.parts for name in store.names)
    depth = 0
    while (tops := {parts[depth] for parts in paths if len(parts) > depth + 1}) and (
        "train" not in tops and len(tops) == 1
    ):
        depth += 1
    splits: dict[str, ByClass] = defaultdict(lambda: defaultdict(list))
    for parts in paths:
        file = PurePosixPath(*parts)
        if len(parts) >= depth + 3:
            splits[parts[depth]][parts[depth + 1]].append(file)
        else:
            left_out.add("files outside of class folders", str(file))
    return splits


def _compose_names(splits: dict[str, ByClass]) -> list[str]:
    """Joins classes whose names are the same to Unicode; returns what is to be said of it."""
    names = {name for classes in splits.values() for name in classes}
    composed = {name: unicodedata.normalize("NFC", name) for name in names}
    for split, classes in splits.items():
        joined: ByClass = defaultdict(list)
        for name, files in classes.items():
            joined[composed[name]] += files
        splits[split] = {name: sorted(files) for name, files in joined.items()}
    several = {new for old, new in composed.items() if old != new and new in names}
    if not several:
        return []
    some = listed(sorted(several), len(several))
    return [f"class names that differ only in how Unicode composes letters are one: {some}"]


def _count_once(store: FileStore, splits: dict[str, ByClass], left_out: Tally) -> None:
    """Takes out files that links lead to and which count already.

    What lies in a class folder itself counts there. What only links lead to counts for the first
    of them, in test before train: no test image is to be in training.
    """
    counted = {
        store.root / file
        for classes in splits.values()
        for files in classes.values()
        for file in files
        if file not in store.real
    }
    for split, classes in splits.items():
        for name, files in classes.items():
            kept = []
            for file in files:
                real = store.real.get(file)
                if real is None or real not in counted:
                    kept.append(file)
                    counted.add(real or file)
                else:
                    left_out.add("links to images that count already", f"{file} -> {real}")
            if not kept:
                raise UserError(
                    f"{store.shown}: all {split} images of class '{name}' are links to images that "
                    f"count elsewhere, such as {files[0]}; copy them, or remove the links"
                )
            classes[name] = kept


def _different_classes(store: FileStore, train: Iterable[str], test: Iterable[str]) -> UserError:
    sides = [("train", set(train) - set(test)), ("test", set(test) - set(train))]
    shown = "; ".join(f"only in {side}: {_some(names)}" for side, names in sides if names)
    folded = [{name.casefold().strip() for name in names} for _, names in sides]
    hint = "; names differ in upper and lower case or spaces" if folded[0] & folded[1] else ""
    return UserError(f"{store.shown}: train and test have different classes; {shown}{hint}")


def _some(names: Iterable[str]) -> str:
    known = sort_classes(names)
    return ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
