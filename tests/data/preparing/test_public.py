"""Public data sets, from files made here in their layout: tests have no network."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dynat_ray.data import load_split
from dynat_ray.data.preparing import prepare_dataset, public
from dynat_ray.data.preparing.download import PublicFile
from dynat_ray.data.preparing.image_files import Wanted
from dynat_ray.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps downloads in the test's folder, and off the network."""

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    return tmp_path / "cache"


@pytest.mark.parametrize("source", ["mnist", "cifar10", "cifar100", "svhn", "tiny-imagenet"])
def test_without_network_the_user_learns_what_to_do(source: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot download .*; check the network.* give a copy: .*:PATH"
    ):
        prepare_dataset(source, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "folder", "files", "names_file", "label_bytes"),
    [
        (
            "cifar10",
            "cifar-10-batches-bin",
            [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"],
            "batches.meta.txt",
            1,
        ),
        ("cifar100", "cifar-100-binary", ["train.bin", "test.bin"], "fine_label_names.txt", 2),
    ],
)
def test_cifar_records(
    source: str,
    folder: str,
    files: list[str],
    names_file: str,
    label_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(0)
    records = {}
    for name in files:
        records[name] = generator.integers(0, 256, (4, label_bytes + 3072), dtype=np.uint8)
        records[name][:, label_bytes - 1] = [0, 1, 2, 1]

    def download(file: PublicFile, place: Path) -> Path:
        contents = {name: content.tobytes() for name, content in records.items()}
        with tarfile.open(place / file.name, "w:gz") as tar:
            for name, content in (contents | {names_file: b"ape\nbee\ncow\n\n"}).items():
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return place / file.name

    monkeypatch.setattr(public, "download", download)
    info = prepare_dataset(source, tmp_path / "out", progress=False)
    assert info.classes == ["ape", "bee", "cow"]
    images, labels = load_split(tmp_path / "out", "train")
    expected = np.concatenate([records[name] for name in files[:-1]])
    assert np.array_equal(images.numpy().reshape(-1, 3072), expected[:, label_bytes:])
    assert labels.tolist() == [0, 1, 2, 1] * (len(files) - 1)
    assert load_split(tmp_path / "out", "test")[1].tolist() == [0, 1, 2, 1]


def test_tiny_imagenet_layout(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def picture(level: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (level, level, level)).save(buffer, "PNG")
        return buffer.getvalue()

    def download(file: PublicFile, place: Path) -> Path:
        with zipfile.ZipFile(place / file.name, "w") as archive:
            for number, name in enumerate(["n01", "n02"]):
                for image in range(2):
                    path = f"tiny-imagenet-200/train/{name}/images/{name}_{image}.JPEG"
                    archive.writestr(path, picture(10 * number + image))
                archive.writestr(f"tiny-imagenet-200/train/{name}/{name}_boxes.txt", "0 0 1 1")
            rows = "val_1.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn01\t0\t0\t9\t9\n"
            archive.writestr("tiny-imagenet-200/val/val_annotations.txt", rows)
            for image in range(2):
                path = f"tiny-imagenet-200/val/images/val_{image}.JPEG"
                archive.writestr(path, picture(100 + image))
        return place / file.name

    monkeypatch.setattr(public, "download", download)
    info = prepare_dataset("tiny-imagenet", tmp_path / "out", progress=False)
    assert info.classes == ["n01", "n02"]
    images, labels = load_split(tmp_path / "out", "train")
    assert images[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
    assert labels.tolist() == [0, 0, 1, 1]
    images, labels = load_split(tmp_path / "out", "test")
    assert images[:, 0, 0, 0].tolist() == [100, 101]
    assert labels.tolist() == [0, 1]


def test_mnist_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)

    def download(file: PublicFile, place: Path) -> Path:
        content = b"\0" * 8 + b"\x07\x00\x09" if "labels" in file.name else b"\0" * 16
        with gzip.open(place / file.name, "wb") as packed:
            packed.write(content if "labels" in file.name else content + images.tobytes())
        return place / file.name

    monkeypatch.setattr(public, "download", download)
    found = public.read_downloaded(public.PUBLIC_SETS["mnist"], tmp_path)
    classes, splits = found.classes, found.splits
    assert classes == [str(number) for number in range(10)]
    for split in ("train", "test"):
        assert splits[split].labels.tolist() == [7, 0, 9]
        assert np.array_equal(splits[split].read(1, Wanted(channels=1)).pixels[..., 0], images[1])


def test_svhn_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 2), dtype=np.uint8)

    def download(file: PublicFile, place: Path) -> Path:
        savemat(place / file.name, {"X": images, "y": np.array([[10], [3]], dtype=np.uint8)})
        return place / file.name

    monkeypatch.setattr(public, "download", download)
    found = public.read_downloaded(public.PUBLIC_SETS["svhn"], tmp_path)
    classes, splits = found.classes, found.splits
    assert classes == [str(number) for number in range(10)]
    for split in ("train", "test"):
        assert splits[split].labels.tolist() == [0, 3]
        assert np.array_equal(splits[split].read(1, Wanted(channels=3)).pixels, images[..., 1])


def test_imagenet_takes_class_folders_or_says_what_it_needs(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (20, 20), (9, 9, 9)).save(folder / "a.JPEG")
    info = prepare_dataset(f"imagenet:{tmp_path / 'imagenet'}", tmp_path / "out", progress=False)
    assert info.classes == ["n01440764", "n01443537"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="ILSVRC2012_devkit_t12"):
        prepare_dataset(f"imagenet:{tmp_path / 'empty'}", tmp_path / "out2", progress=False)


def test_the_cache_folder_can_be_chosen(cache: Path) -> None:
    assert public.downloads("mnist") == cache / "downloads" / "mnist"
    assert public.downloads("mnist").is_dir()


def test_a_tar_that_is_no_tiny_imagenet(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(file: PublicFile, place: Path) -> Path:
        with tarfile.open(place / file.name, "w"):
            pass
        return place / file.name

    monkeypatch.setattr(public, "download", download)
    with pytest.raises(UserError, match="is not Tiny ImageNet"):
        prepare_dataset("tiny-imagenet", tmp_path / "out", progress=False)
