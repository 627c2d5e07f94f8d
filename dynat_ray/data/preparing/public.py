"""Public data sets, downloaded or from a copy, read without running what a pickle may hold."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np

from dynat_ray.data.cache_folder import cache_folder
from dynat_ray.data.preparing import public_files
from dynat_ray.data.preparing.archives import unpack
from dynat_ray.data.preparing.cifar_pickles import read_cifar_pickle
from dynat_ray.data.preparing.download import PublicFile, download
from dynat_ray.data.preparing.file_stores import FileStore, FolderFiles, find_file
from dynat_ray.data.preparing.image_files import Pixels
from dynat_ray.data.preparing.image_sets import ArrayImages, ImageSet
from dynat_ray.data.preparing.known_layouts import read_tiny_imagenet
from dynat_ray.data.preparing.source import Source
from dynat_ray.errors import UserError

_DIGITS = [str(each) for each in range(10)]


@dataclass(frozen=True)
class PublicSet:
    """A public data set.

    Attributes:
        title: What its authors call it.
        name: What its source is called here.
        files: What is downloaded.
        read: Reads it from a folder or an unpacked archive, wherever in it its files lie.
        archives: Names of the archives that its authors publish.
        marks: Files by which it is known when it is unpacked, any of them.
    """

    title: str
    name: str
    files: tuple[PublicFile, ...]
    read: Callable[[FileStore], tuple[list[str], dict[str, ImageSet]]]
    archives: tuple[str, ...]
    marks: tuple[str, ...]


def downloads(name: str) -> Path:
    """Returns the folder where the files of a public data set are kept, made if need be."""
    folder = cache_folder() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_downloaded(wanted: PublicSet, scratch: Path) -> Source:
    """Reads a public data set, downloaded unless it has been.

    Raises:
        UserError: It can't be downloaded.
    """
    folder = downloads(wanted.name)
    files = [_download(wanted.title, file, folder) for file in wanted.files]
    if wanted.archives:
        return _source(wanted, unpack(files[0], scratch / "packed"))
    return _source(wanted, FolderFiles(folder))


def read_copy(wanted: PublicSet, path: Path, scratch: Path) -> Source:
    """Reads a public data set from a copy.

    Args:
        wanted: Which.
        path: A folder with its files or with an archive as published, or that archive.
        scratch: Folder for what has to be unpacked.

    Raises:
        UserError: The copy lacks some of it.
    """
    if not path.is_dir():
        return _source(wanted, unpack(path, scratch / "packed"))
    store = FolderFiles(path)
    if not any(find_file(store, mark) for mark in wanted.marks):
        for archive in filter(None, (find_file(store, name) for name in wanted.archives)):
            return _source(wanted, unpack(path / archive, scratch / "packed"))
    return _source(wanted, store)


def _source(wanted: PublicSet, store: FileStore) -> Source:
    try:
        classes, splits = wanted.read(store)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{store.shown} is not {wanted.title}: {reason}") from None
    return Source(name=wanted.name, classes=classes, splits=splits)


def _read_mnist(store: FileStore) -> tuple[list[str], dict[str, ImageSet]]:
    """Reads MNIST (60,000 and 10,000 grey images of 28 x 28)."""

    def read(name: str, header: int) -> Pixels:
        # Some copies are unpacked, and some have a point in the name.
        content = _content(store, f"{name}-ubyte.gz", f"{name}-ubyte", name.replace("-idx", ".idx"))
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        return np.frombuffer(content, dtype=np.uint8, offset=header)

    def split(name: str) -> ImageSet:
        images = read(f"{name}-images-idx3", 16).reshape(-1, 28, 28, 1)
        return _labelled(images, read(f"{name}-labels-idx1", 8), 10)

    return _DIGITS, {"train": split("train"), "test": split("t10k")}


def _read_svhn(store: FileStore) -> tuple[list[str], dict[str, ImageSet]]:
    """Reads SVHN (73,257 and 26,032 colour images of 32 x 32)."""
    from scipy.io import loadmat

    def read(split: str) -> ImageSet:
        with store.open(_find(store, f"{split}_32x32.mat")) as file:
            found = loadmat(file)
        # The digit 0 has the label 10 there.
        return _labelled(found["X"].transpose(3, 0, 1, 2), found["y"].ravel() % 10, 10)

    return _DIGITS, {"train": read("train"), "test": read("test")}


def _read_cifar10(store: FileStore) -> tuple[list[str], dict[str, ImageSet]]:
    """Reads CIFAR-10 (50,000 and 10,000 colour images of 32 x 32), its binary or Python version."""
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    if find_file(store, "data_batch_1.bin"):
        return _cifar_records(store, "batches.meta.txt", batches, "test_batch", label_bytes=1)
    return _cifar_pickles(store, "batches.meta", batches, "test_batch", "label")


def _read_cifar100(store: FileStore) -> tuple[list[str], dict[str, ImageSet]]:
    """Reads CIFAR-100 (as many images, its 100 fine classes), its binary or Python version."""
    if find_file(store, "train.bin"):
        return _cifar_records(store, "fine_label_names.txt", ["train"], "test", label_bytes=2)
    return _cifar_pickles(store, "meta", ["train"], "test", "fine_label")


def _read_tiny_imagenet(store: FileStore) -> tuple[list[str], dict[str, ImageSet]]:
    found = read_tiny_imagenet(store)
    return found.classes, found.splits


def _cifar_records(
    store: FileStore, names: str, train: list[str], test: str, *, label_bytes: int
) -> tuple[list[str], dict[str, ImageSet]]:
    """Reads records of `label_bytes` labels, the last of which counts, and 3 x 32 x 32 pixels."""
    classes = _content(store, names).decode().split()

    def read(files: list[str]) -> ImageSet:
        joined = b"".join(_content(store, f"{file}.bin") for file in files)
        records = np.frombuffer(joined, dtype=np.uint8).reshape(-1, label_bytes + 3 * 32 * 32)
        return _planes(records[:, label_bytes:], records[:, label_bytes - 1], len(classes))

    return classes, {"train": read(train), "test": read([test])}


def _cifar_pickles(
    store: FileStore, names: str, train: list[str], test: str, label: str
) -> tuple[list[str], dict[str, ImageSet]]:
    classes = [str(name) for name in read_cifar_pickle(_content(store, names))[f"{label}_names"]]

    def read(files: list[str]) -> ImageSet:
        found = [read_cifar_pickle(_content(store, file)) for file in files]
        pixels = np.concatenate([np.asarray(each["data"], np.uint8) for each in found])
        labels = np.concatenate([np.asarray(each[f"{label}s"], np.int64) for each in found])
        return _planes(pixels, labels, len(classes))

    return classes, {"train": read(train), "test": read([test])}


def _planes(pixels: Pixels, labels: np.ndarray, classes: int) -> ImageSet:
    return _labelled(np.moveaxis(pixels.reshape(-1, 3, 32, 32), 1, -1), labels, classes)


def _labelled(images: Pixels, labels: np.ndarray, classes: int) -> ImageSet:
    if len(images) != len(labels) or len(labels) == 0 or labels.max() >= classes:
        raise ValueError(f"{len(images)} images have {len(labels)} labels below {classes}")
    return ArrayImages(images, labels)


def _content(store: FileStore, *names: str) -> bytes:
    with store.open(_find(store, *names)) as file:
        return file.read()


def _find(store: FileStore, *names: str) -> PurePosixPath:
    for found in filter(None, (find_file(store, name) for name in names)):
        return found
    raise ValueError(f"there is no {' or '.join(names)} in it")


def _download(name: str, file: PublicFile, folder: Path) -> Path:
    """Returns where the file lies; turns whatever goes wrong with a download into advice."""
    try:
        return download(file, folder)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot download {name} ({reason}); check the network, or put {file.name} into "
            f"{folder}, or give a copy: {folder.name}:PATH (folder or archive)"
        ) from None


def _names(files: Iterable[PublicFile]) -> tuple[str, ...]:
    return tuple(file.name for file in files)


PUBLIC_SETS = {
    each.name: each
    for each in (
        PublicSet(
            "MNIST",
            "mnist",
            tuple(public_files.MNIST.values()),
            _read_mnist,
            (),
            _names(public_files.MNIST.values()),
        ),
        PublicSet(
            "SVHN",
            "svhn",
            tuple(public_files.SVHN.values()),
            _read_svhn,
            (),
            _names(public_files.SVHN.values()),
        ),
        PublicSet(
            "CIFAR-10",
            "cifar10",
            (public_files.CIFAR10,),
            _read_cifar10,
            (public_files.CIFAR10.name, "cifar-10-python.tar.gz"),
            ("data_batch_1.bin", "data_batch_1"),
        ),
        PublicSet(
            "CIFAR-100",
            "cifar100",
            (public_files.CIFAR100,),
            _read_cifar100,
            (public_files.CIFAR100.name, "cifar-100-python.tar.gz"),
            ("fine_label_names.txt", "meta"),
        ),
        PublicSet(
            "Tiny ImageNet",
            "tiny-imagenet",
            (public_files.TINY_IMAGENET,),
            _read_tiny_imagenet,
            (public_files.TINY_IMAGENET.name,),
            ("val_annotations.txt",),
        ),
    )
}
