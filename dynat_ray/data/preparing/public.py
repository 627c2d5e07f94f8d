"""Public data sets, downloaded from their sources and read without unpickling anything."""

from __future__ import annotations

import gzip
import os
import tarfile
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np

from dynat_ray.data.preparing.download import PublicFile, download
from dynat_ray.data.preparing.file_stores import FileStore, FolderFiles
from dynat_ray.data.preparing.folders import ClassFolders, read_class_folders
from dynat_ray.data.preparing.image_files import Pixels
from dynat_ray.data.preparing.image_sets import ArrayImages, FileImages, ImageSet
from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path

Splits = dict[str, ImageSet]

# Digests as TensorFlow Datasets and others publish them.
_MNIST = {
    name: PublicFile(sha256, (f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",))
    for name, sha256 in {
        "train-images-idx3-ubyte": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    }.items()
}
# Its server may speak http alone; what counts is the digest.
_SVHN = {
    split: PublicFile(
        sha256,
        tuple(
            f"{scheme}://ufldl.stanford.edu/housenumbers/{split}_32x32.mat"
            for scheme in ("https", "http")
        ),
    )
    for split, sha256 in {
        "train": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "test": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    }.items()
}
# The binary versions: the others are pickles.
_CIFAR10 = PublicFile(
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)
_CIFAR100 = PublicFile(
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
)
_TINY_IMAGENET = PublicFile(
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ("https://cs231n.stanford.edu/tiny-imagenet-200.zip",),
)


def cache_folder() -> Path:
    """Returns the folder for what can be made again: `$DYNAT_RAY_CACHE`, else the user's cache."""
    if own := os.environ.get("DYNAT_RAY_CACHE"):
        return user_path(own)
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

    def read(name: str, header: int) -> Pixels:
        with gzip.open(_download("MNIST", _MNIST[name], folder)) as file:
            return np.frombuffer(file.read(), dtype=np.uint8, offset=header)

    def split(name: str) -> ImageSet:
        images = read(f"{name}-images-idx3-ubyte", 16).reshape(-1, 28, 28, 1)
        return ArrayImages(images, read(f"{name}-labels-idx1-ubyte", 8))

    return [str(each) for each in range(10)], {"train": split("train"), "test": split("t10k")}


def read_svhn(folder: Path) -> tuple[list[str], Splits]:
    """Downloads SVHN (73,257 and 26,032 colour images of 32 x 32)."""
    from scipy.io import loadmat

    def read(split: str) -> ImageSet:
        found = loadmat(_download("SVHN", _SVHN[split], folder))
        # The digit 0 has the label 10 there.
        return ArrayImages(found["X"].transpose(3, 0, 1, 2), found["y"].ravel() % 10)

    return [str(each) for each in range(10)], {"train": read("train"), "test": read("test")}


def read_cifar10(folder: Path) -> tuple[list[str], Splits]:
    """Downloads CIFAR-10 (50,000 and 10,000 colour images of 32 x 32)."""
    archive = _download("CIFAR-10", _CIFAR10, folder)
    files = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _read_cifar(
        archive, "cifar-10-batches-bin", "batches.meta.txt", files, "test_batch.bin", 1
    )


def read_cifar100(folder: Path) -> tuple[list[str], Splits]:
    """Downloads CIFAR-100 (50,000 and 10,000 colour images of 32 x 32, its 100 fine classes)."""
    archive = _download("CIFAR-100", _CIFAR100, folder)
    return _read_cifar(
        archive, "cifar-100-binary", "fine_label_names.txt", ["train.bin"], "test.bin", 2
    )


def download_tiny_imagenet(folder: Path) -> Path:
    """Downloads the archive of Tiny ImageNet (100,000 and 10,000 images of 64 x 64)."""
    return _download("Tiny ImageNet", _TINY_IMAGENET, folder)


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


def read_imagenet(root: Path) -> ClassFolders:
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


def _read_cifar(
    archive: Path, root: str, names: str, train: list[str], test: str, label_bytes: int
) -> tuple[list[str], Splits]:
    """Reads records of `label_bytes` labels, the last of which counts, and 3 x 32 x 32 pixels."""
    with tarfile.open(archive) as tar:

        def content(name: str) -> bytes:
            member = tar.extractfile(f"{root}/{name}")
            assert member is not None
            return member.read()

        def read(files: list[str]) -> ImageSet:
            joined = np.frombuffer(b"".join(content(file) for file in files), dtype=np.uint8)
            records = joined.reshape(-1, label_bytes + 3 * 32 * 32)
            pixels = records[:, label_bytes:].reshape(-1, 3, 32, 32)
            return ArrayImages(np.moveaxis(pixels, 1, -1), records[:, label_bytes - 1])

        classes = content(names).decode().split()
        return classes, {"train": read(train), "test": read([test])}


def _download(name: str, file: PublicFile, folder: Path) -> Path:
    """Returns where the file lies; turns whatever goes wrong with a download into advice."""
    try:
        return download(file, folder)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"cannot download {name} ({reason}); check the network, or put {file.name} into "
            f"{folder}, or prepare a local copy with folder:PATH (class folders under train/ and "
            "test/)"
        ) from None
