"""What `dynat_ray.prepare` can read: SOURCE names, and where each one's images come from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import numpy as np

from dynat_ray.data.preparing.archives import unpack
from dynat_ray.data.preparing.csv_list import read_csv
from dynat_ray.data.preparing.file_stores import FolderFiles
from dynat_ray.data.preparing.generated import read_generated
from dynat_ray.data.preparing.huggingface import read_huggingface
from dynat_ray.data.preparing.image_sets import ArrayImages
from dynat_ray.data.preparing.image_tables import TABLE_ENDINGS, Columns, read_tables
from dynat_ray.data.preparing.known_layouts import read_folder, read_imagenet
from dynat_ray.data.preparing.public import PUBLIC_SETS, read_copy, read_downloaded
from dynat_ray.data.preparing.shard_files import common_folder, find_files, shown_name
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.split_names import split_named_by
from dynat_ray.data.preparing.webdataset import read_webdataset
from dynat_ray.data.subsets import stratified_split
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.object_store import is_address
from dynat_ray.user_path import user_path

__all__ = ["Source", "absolute_source", "open_source", "register_source"]


def open_source(source: str, scratch: Path) -> Source:
    """Finds the images of a SOURCE.

    Args:
        source: A name of a public data set, or a kind and what it is read from, `KIND:PATH`.
        scratch: Empty folder for what has to be unpacked; must live as long as the result.

    Raises:
        UserError: Unknown source, missing path, or contents that are not what they should be.
    """
    kind, colon, rest = source.partition(":")
    if rest and kind in _WITH_TEXT:
        found = _WITH_TEXT[kind](*_without_options(rest, scratch))
    elif colon and kind in _WITH_PATH:
        path = user_path(rest)
        if not rest or not path.exists():
            raise UserError(f"{source}: there is no file or folder '{rest}'")
        found = _WITH_PATH[kind](path, scratch)
    elif kind in _BY_NAME and not colon:
        found = _BY_NAME[kind](scratch)
    else:
        kinds = [*_WITH_PATH, *_WITH_TEXT]
        raise unknown_name("source", source, [*_BY_NAME, *(f"{each}:PATH" for each in kinds)])
    _check(source, found)
    return found


def absolute_source(source: str) -> str:
    """Returns a source by which another working directory finds the same images."""
    kind, _, rest = source.partition(":")
    if not rest:
        return source
    if kind not in _WITH_TEXT:
        return f"{kind}:{user_path(rest).resolve()}"
    path, mark, options = rest.partition("?")
    parts = [
        # What is no folder may be a name on the hub.
        each
        if is_address(each) or (kind == "hf" and not user_path(each).exists())
        else str(user_path(each).absolute())
        for each in path.split("::")
    ]
    return f"{kind}:{'::'.join(parts)}{mark}{options}"


def register_source(kind: str, read: Callable[[Path, Path], Source]) -> None:
    """Makes `KIND:PATH` a source.

    Args:
        kind: The word before the colon, which must be new.
        read: Takes the path and an empty scratch folder that lives as long as its result. Raises
            `UserError` for what is not as it should be.
    """
    assert kind not in {*_WITH_PATH, *_WITH_TEXT}, f"there is a source '{kind}:PATH' already"
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


def _without_options(rest: str, scratch: Path) -> tuple[str, Path, dict[str, str]]:
    """Takes what is for the source from behind a `?`; what is left there is for the store."""
    path, _, options = rest.partition("?")
    pairs = parse_qsl(options, keep_blank_values=True)
    ours = {key: value for key, value in pairs if key in _OPTIONS}
    others = [(key, value) for key, value in pairs if key not in _OPTIONS]
    return path + (f"?{urlencode(others)}" if others else ""), scratch, ours


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


def _folder(path: Path, scratch: Path) -> Source:
    store = FolderFiles(path) if path.is_dir() else unpack(path, scratch / "packed")
    name = path.name.partition(".")[0] if path.is_file() else path.resolve().name
    return read_folder(name, store)


def _generated(path: Path, scratch: Path) -> Source:
    classes, images = read_generated(path, scratch)
    return Source(name=path.stem, classes=classes, splits={"train": images})


def _parquet(files: str, scratch: Path, options: dict[str, str]) -> Source:
    columns = Columns(options.get("image", ""), options.get("label", ""))
    found = find_files(files, TABLE_ENDINGS)
    root = common_folder(found)
    split_of = {file: split_named_by(file[len(root) :]) for file in found}
    name = shown_name(root.rstrip("/") or files).name
    return read_tables(f"parquet:{files}", name, split_of, scratch, columns)


def _imagenet_missing(scratch: Path) -> Source:
    raise UserError(
        "ImageNet cannot be downloaded without an account: give imagenet:FOLDER, where FOLDER has "
        "class folders under train/ and val/, or the files ILSVRC2012_img_train.tar, "
        "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from image-net.org"
    )


_BY_NAME: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    **{name: partial(read_downloaded, each) for name, each in PUBLIC_SETS.items()},
    "imagenet": _imagenet_missing,
}
_WITH_PATH: dict[str, Callable[[Path, Path], Source]] = {
    "folder": _folder,
    "npz": _generated,
    "csv": lambda path, scratch: read_csv(path),
    **{name: partial(read_copy, each) for name, each in PUBLIC_SETS.items()},
    "imagenet": lambda path, scratch: read_imagenet(path),
}
# These take more than a path: addresses, braces, names on the hub, and options after a `?`.
_WITH_TEXT: dict[str, Callable[[str, Path, dict[str, str]], Source]] = {
    "hf": read_huggingface,
    "wds": lambda shards, scratch, options: read_webdataset(shards, scratch),
    "parquet": _parquet,
}
_OPTIONS = ("image", "label", "config")
