"""What `dynat_ray.prepare` can read: SOURCE names, and where each one's images come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dynat_ray.data.account import Tally
from dynat_ray.data.preparing import public
from dynat_ray.data.preparing.archives import unpack
from dynat_ray.data.preparing.file_stores import FolderFiles
from dynat_ray.data.preparing.folders import ClassFolders, read_class_folders
from dynat_ray.data.preparing.generated import read_generated
from dynat_ray.data.preparing.image_sets import ArrayImages, ImageSet
from dynat_ray.data.subsets import stratified_split
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.user_path import user_path


@dataclass(kw_only=True)
class Source:
    """Images and labels of all splits.

    Attributes:
        name: Short name of the data set.
        classes: Class names; a label is a position in this list.
        splits: `train`, and `test` unless the source is generated training data.
        left_out: What is there, but is none of the images.
        notes: What else is to be said of it, a sentence each.
    """

    name: str
    classes: list[str]
    splits: dict[str, ImageSet]
    left_out: Tally = field(default_factory=Tally)
    notes: list[str] = field(default_factory=list)


def open_source(source: str, scratch: Path) -> Source:
    """Finds the images of a SOURCE.

    Args:
        source: A name of a public data set, `folder:PATH`, `npz:PATH` or `imagenet:PATH`.
        scratch: Empty folder for what has to be unpacked; must live as long as the result.

    Raises:
        UserError: Unknown source, missing path, or contents that are not what they should be.
    """
    kind, colon, rest = source.partition(":")
    if colon and kind in _WITH_PATH:
        path = user_path(rest)
        if not rest or not path.exists():
            raise UserError(f"{source}: there is no file or folder '{rest}'")
        found = _WITH_PATH[kind](path, scratch)
    elif kind in _BY_NAME and not colon:
        found = _BY_NAME[kind](scratch)
    else:
        raise unknown_name("source", source, [*_BY_NAME, *(f"{each}:PATH" for each in _WITH_PATH)])
    _check(source, found)
    return found


def register_source(kind: str, read: Callable[[Path, Path], Source]) -> None:
    """Makes `KIND:PATH` a source.

    Args:
        kind: The word before the colon, which must be new.
        read: Takes the path and an empty scratch folder that lives as long as its result. Raises
            `UserError` for what is not as it should be.
    """
    assert kind not in _WITH_PATH, f"there is a source '{kind}:PATH' already"
    _WITH_PATH[kind] = read


def _check(source: str, found: Source) -> None:
    for name in (source, *found.classes):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name {name!a} is not UTF-8; rename it") from None
    if len(found.classes) < 2:
        raise UserError(
            f"{source} has only one class ({', '.join(found.classes)}); a classifier needs two"
        )
    for split, images in found.splits.items():
        counts = np.bincount(images.labels, minlength=len(found.classes))
        for label in np.flatnonzero(counts == 0):
            raise UserError(f"{source}: class '{found.classes[label]}' has no {split} images")


def _digits(scratch: Path) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Grey levels 0 to 16 become 0 to 255.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    train, test = stratified_split(digits.target, 0.2, seed=0)
    return Source(
        name="digits",
        classes=[str(each) for each in digits.target_names],
        splits={
            "train": ArrayImages(images[train], digits.target[train]),
            "test": ArrayImages(images[test], digits.target[test]),
        },
    )


def _public(name: str, read: Callable[[Path], tuple[list[str], dict[str, ImageSet]]]) -> Source:
    classes, splits = read(public.downloads(name))
    return Source(name=name, classes=classes, splits=splits)


def _tiny_imagenet(scratch: Path) -> Source:
    archive = public.download_tiny_imagenet(public.downloads("tiny-imagenet"))
    classes, splits = public.read_tiny_imagenet(unpack(archive, scratch / "packed"))
    return Source(name="tiny-imagenet", classes=classes, splits=splits)


def _folder(path: Path, scratch: Path) -> Source:
    store = FolderFiles(path) if path.is_dir() else unpack(path, scratch / "packed")
    name = path.name.partition(".")[0] if path.is_file() else path.resolve().name
    return _class_folders(name, read_class_folders(store))


def _class_folders(name: str, found: ClassFolders) -> Source:
    return Source(
        name=name,
        classes=found.classes,
        splits=found.splits,
        left_out=found.left_out,
        notes=found.notes,
    )


def _generated(path: Path, scratch: Path) -> Source:
    classes, images = read_generated(path, scratch)
    return Source(name=path.stem, classes=classes, splits={"train": images})


def _imagenet(path: Path, scratch: Path) -> Source:
    return _class_folders("imagenet", public.read_imagenet(path))


def _imagenet_missing(scratch: Path) -> Source:
    raise UserError(
        "ImageNet cannot be downloaded without an account: give imagenet:FOLDER, where FOLDER has "
        "class folders under train/ and val/, or the files ILSVRC2012_img_train.tar, "
        "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from image-net.org"
    )


_BY_NAME: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "mnist": lambda scratch: _public("mnist", public.read_mnist),
    "cifar10": lambda scratch: _public("cifar10", public.read_cifar10),
    "cifar100": lambda scratch: _public("cifar100", public.read_cifar100),
    "svhn": lambda scratch: _public("svhn", public.read_svhn),
    "tiny-imagenet": _tiny_imagenet,
    "imagenet": _imagenet_missing,
}
_WITH_PATH: dict[str, Callable[[Path, Path], Source]] = {
    "folder": _folder,
    "npz": _generated,
    "imagenet": _imagenet,
}
