"""Public data sets: what torchvision downloads, read without unpickling anything."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np

from dynat_ray.data.preparing.file_stores import FileStore, FolderFiles
from dynat_ray.data.preparing.folders import read_class_folders
from dynat_ray.data.preparing.image_sets import ArrayImages, FileImages, ImageSet
from dynat_ray.errors import UserError

Splits = dict[str, ImageSet]

_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz"
_TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""


def cache_folder() -> Path:
    """Returns the folder for what can be made again: `$DYNAT_RAY_CACHE`, else the user's cache."""
    if own := os.environ.get("DYNAT_RAY_CACHE"):
        return Path(own).expanduser()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynat-ray"
    # Compiled code lies below it as well, which is not loaded where others could replace it.
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return folder


def downloads(name: str) -> Path:
    """Returns the folder where the files of a public data set are kept, made if need be."""
    folder = cache_folder() / "downloads" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_mnist(folder: Path) -> tuple[list[str], Splits]:
    """Downloads MNIST (60,000 and 10,000 grey images of 28 x 28)."""
    from torchvision.datasets import MNIST

    def read(train: bool) -> ImageSet:
        found = MNIST(folder, train=train, download=True)
        return ArrayImages(found.data.numpy()[..., None], found.targets.numpy())

    with _downloading("MNIST", folder):
        return [str(each) for each in range(10)], {"train": read(True), "test": read(False)}


def read_svhn(folder: Path) -> tuple[list[str], Splits]:
    """Downloads SVHN (73,257 and 26,032 colour images of 32 x 32)."""
    from torchvision.datasets import SVHN

    def read(split: str) -> ImageSet:
        found = SVHN(folder, split=split, download=True)
        return ArrayImages(np.moveaxis(found.data, 1, -1), found.labels)

    with _downloading("SVHN", folder):
        return [str(each) for each in range(10)], {"train": read("train"), "test": read("test")}


def read_cifar10(folder: Path) -> tuple[list[str], Splits]:
    """Downloads CIFAR-10 (50,000 and 10,000 colour images of 32 x 32)."""
    root = _download_cifar("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", folder)
    files = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _read_cifar(
        root / "cifar-10-batches-bin", "batches.meta.txt", files, "test_batch.bin", 1
    )


def read_cifar100(folder: Path) -> tuple[list[str], Splits]:
    """Downloads CIFAR-100 (50,000 and 10,000 colour images of 32 x 32, its 100 fine classes)."""
    root = _download_cifar("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", folder)
    return _read_cifar(
        root / "cifar-100-binary", "fine_label_names.txt", ["train.bin"], "test.bin", 2
    )


def download_tiny_imagenet(folder: Path) -> Path:
    """Downloads the archive of Tiny ImageNet (100,000 and 10,000 images of 64 x 64)."""
    from torchvision.datasets.utils import download_url

    with _downloading("Tiny ImageNet", folder):
        download_url(_TINY_IMAGENET, folder, md5="90528d7ca1a48142e341f4ef8d21d0de")
    return folder / "tiny-imagenet-200.zip"


def read_tiny_imagenet(store: FileStore) -> tuple[list[str], Splits]:
    """Finds the images of Tiny ImageNet; its validation images are the test split.

    Classes are WordNet numbers, in their order. Training images are `train/CLASS/images/FILE`, the
    others `val/images/FILE`, named by `val/val_annotations.txt`, whose lines begin with file and
    class.
    """
    root = PurePosixPath("tiny-imagenet-200")
    train = sorted(name for name in store.names if name.match("train/*/images/*"))
    classes = sorted({name.parts[-3] for name in train})
    label = {name: number for number, name in enumerate(classes)}
    try:
        with store.open(root / "val" / "val_annotations.txt") as file:
            lines = file.read().decode().splitlines()
        rows = sorted(line.split("\t")[:2] for line in lines if line)
        test = [root / "val" / "images" / name for name, _ in rows]
        test_labels = [label[name] for _, name in rows]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{store.shown} is not Tiny ImageNet ({error!r})") from None
    train_labels = [label[name.parts[-3]] for name in train]
    return classes, {
        "train": FileImages(store, train, train_labels),
        "test": FileImages(store, test, test_labels),
    }


def read_imagenet(root: Path) -> tuple[list[str], Splits]:
    """Finds the images of ImageNet in `root`; unpacks them there first if only its tars are."""
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        from torchvision.datasets import ImageNet

        try:
            for split in ("train", "val"):
                ImageNet(root, split=split)
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"imagenet:{root} needs class folders under train/ and val/, or the archives "
                f"ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
                f"ILSVRC2012_devkit_t12.tar.gz ({error})"
            ) from None
    return read_class_folders(FolderFiles(root))


def _download_cifar(archive: str, md5: str, folder: Path) -> Path:
    # The binary version: the other one is a pickle.
    from torchvision.datasets.utils import download_and_extract_archive

    with _downloading("CIFAR", folder):
        download_and_extract_archive(f"{_CIFAR_HOME}/{archive}", folder, md5=md5)
    return folder


def _read_cifar(
    root: Path, names: str, train: list[str], test: str, label_bytes: int
) -> tuple[list[str], Splits]:
    """Reads records of `label_bytes` labels, the last of which counts, and 3 x 32 x 32 pixels."""

    def read(files: list[str]) -> ImageSet:
        joined = np.concatenate([np.fromfile(root / file, dtype=np.uint8) for file in files])
        records = joined.reshape(-1, label_bytes + 3 * 32 * 32)
        pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32)
        return ArrayImages(np.moveaxis(pixels, 1, -1), records[:, label_bytes - 1])

    classes = (root / names).read_text(encoding="utf-8").split()
    return classes, {"train": read(train), "test": read([test])}


@contextmanager
def _downloading(name: str, folder: Path) -> Iterator[None]:
    """Turns whatever goes wrong with a download into advice."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot download {name} ({reason}); check the network, or put the files into "
            f"{folder}, or prepare a local copy with folder:PATH (class folders under train/ and "
            "test/)"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
