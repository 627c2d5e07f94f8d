"""Folders that are no class folders, but whose layout is known: Tiny ImageNet's, ILSVRC's."""

from __future__ import annotations

import csv
import io
from pathlib import Path, PurePosixPath

from dynat_ray.data.preparing.file_stores import FileStore, FolderFiles, find_file
from dynat_ray.data.preparing.folders import read_class_folders
from dynat_ray.data.preparing.image_sets import FileImages
from dynat_ray.data.preparing.labelled_files import LabelledFiles, label_source
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import TEST_NAMES
from dynat_ray.errors import UserError

_TINY = "val_annotations.txt"
_ILSVRC = "LOC_val_solution.csv"
_TRUTH = "give imagenet:FOLDER with LOC_val_solution.csv, which says their classes, in the folder"
# Files by which other sources are known.
_OTHERS = {
    "data_batch_1.bin": "cifar10",
    "data_batch_1": "cifar10",
    "cifar-10-binary.tar.gz": "cifar10",
    "cifar-10-python.tar.gz": "cifar10",
    "fine_label_names.txt": "cifar100",
    "cifar-100-binary.tar.gz": "cifar100",
    "cifar-100-python.tar.gz": "cifar100",
    "train_32x32.mat": "svhn",
    "train-images-idx3-ubyte": "mnist",
    "train-images-idx3-ubyte.gz": "mnist",
    "tiny-imagenet-200.zip": "tiny-imagenet",
    "ILSVRC2012_img_train.tar": "imagenet",
}


def read_folder(name: str, store: FileStore) -> Source:
    """Reads class folders, or another layout that is known.

    Raises:
        UserError: It is neither.
    """
    if find_file(store, _TINY):
        return read_tiny_imagenet(store)
    if find_file(store, _ILSVRC):
        return _read_ilsvrc(store)
    try:
        return read_class_folders(name, store)
    except UserError as error:
        raise UserError(f"{error}{_hint(store)}") from None


def read_tiny_imagenet(store: FileStore) -> Source:
    """Finds the images of Tiny ImageNet; its validation images are the test split.

    Classes are WordNet numbers, in their order. Training images are `train/CLASS/images/FILE`, the
    others `val/images/FILE`, named by `val/val_annotations.txt`, whose lines begin with file and
    class.
    """
    annotations = find_file(store, _TINY)
    if annotations is None:
        raise UserError(f"{store.shown} is not Tiny ImageNet: there is no {_TINY} in it")
    top = annotations.parent.parent
    depth = len(top.parts)
    train = sorted(
        name
        for name in store.names
        if name.parts[:depth] == top.parts
        and PurePosixPath(*name.parts[depth:]).match("train/*/images/*")
    )
    classes = sorted({name.parts[-3] for name in train})
    label = {name: number for number, name in enumerate(classes)}
    try:
        with store.open(annotations) as file:
            lines = file.read().decode().splitlines()
        rows = sorted(line.split("\t")[:2] for line in lines if line)
        test = [annotations.parent / "images" / name for name, _ in rows]
        test_labels = [label[name] for _, name in rows]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{store.shown} is not Tiny ImageNet ({error!r})") from None
    return Source(
        name="tiny-imagenet",
        classes=classes,
        splits={
            "train": FileImages(store, train, [label[name.parts[-3]] for name in train]),
            "test": FileImages(store, test, test_labels),
        },
    )


def read_imagenet(root: Path) -> Source:
    """Finds the images of ImageNet in `root`; unpacks them there first if only its tars are.

    Raises:
        UserError: It has neither class folders, nor the layout of Kaggle, nor the archives.
    """
    if (root / "ILSVRC2012_img_train.tar").is_file() and not (root / "train").is_dir():
        from torchvision.datasets import ImageNet

        try:
            for split in ("train", "val"):
                ImageNet(root, split=split)
        except (RuntimeError, OSError) as error:
            raise UserError(f"imagenet:{root} can't be unpacked there: {error}") from None
    try:
        found = read_folder("imagenet", FolderFiles(root))
    except UserError as error:
        raise UserError(
            f"imagenet:{root} needs class folders under train/ and val/, images in val/ and "
            f"{_ILSVRC}, or the archives ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
            f"ILSVRC2012_devkit_t12.tar.gz ({error})"
        ) from None
    found.name = "imagenet"
    return found


def _read_ilsvrc(store: FileStore) -> Source:
    """Reads ImageNet as Kaggle has it: `train/CLASS/FILE`, `val/FILE`, and a list of their classes.

    The list's first column is the name of a file without its ending, its second begins with the
    class. Images of `test/` have no labels, and are left out.
    """
    splits = {"train": LabelledFiles(), "test": LabelledFiles()}
    truth = find_file(store, _ILSVRC)
    assert truth is not None
    with store.open(truth) as file:
        text = file.read().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))[1:]
    classes = {row[0]: row[1].partition(" ")[0] for row in rows if len(row) > 1}
    for path in sorted(store.names):
        parent = path.parent.name
        if len(path.parts) > 2 and path.parts[-3] == "train" and path.suffix == ".JPEG":
            splits["train"].add(path, parent)
        elif parent == "val" and path.suffix == ".JPEG":
            if path.stem not in classes:
                raise UserError(f"{store.shown}: {truth.name} has no line for {path}")
            splits["test"].add(path, classes[path.stem])
    return label_source("imagenet", store, splits, left_out=store.left_out)


def _hint(store: FileStore) -> str:
    """Returns which source reads what was taken for class folders, where that can be told."""
    names = {path.name for path in store.names}
    for mark, source in _OTHERS.items():
        if mark in names:
            return f"; it looks like {source}: give {source}:{store.shown}"
    if any(
        path.parent.name in TEST_NAMES and path.name.startswith("ILSVRC") for path in store.names
    ):
        return f"; its validation images lie in no class folders: {_TRUTH}"
    return ""
