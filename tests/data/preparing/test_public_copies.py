"""Public data sets from copies that are already there, however they were unpacked."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from dynat_ray.data.preparing.image_files import Wanted
from dynat_ray.data.preparing.source import Source
from dynat_ray.data.preparing.sources import open_source
from dynat_ray.errors import UserError

NAMES = ["ape", "bee", "cow"]
LABELS = [0, 1, 2, 1]
DIGITS = [7, 0, 9, 1, 2, 3, 4, 5, 6, 8]
GENERATOR = np.random.default_rng(0)
BATCHES = {
    name: GENERATOR.integers(0, 256, (4, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
}


def binary_files() -> dict[str, bytes]:
    labels = np.array(LABELS, np.uint8)[:, None]
    files = {f"{name}.bin": np.hstack([labels, each]).tobytes() for name, each in BATCHES.items()}
    return files | {"batches.meta.txt": "\n".join(NAMES).encode()}


def python_files() -> dict[str, bytes]:
    files = {
        name: pickle.dumps({b"data": each, b"labels": LABELS, b"batch_label": b"x"}, 2)
        for name, each in BATCHES.items()
    }
    names = {b"label_names": [name.encode() for name in NAMES], b"num_vis": 3072}
    return files | {"batches.meta": pickle.dumps(names, 2)}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return archive


def opened(source: str, scratch: Path) -> Source:
    scratch.mkdir(exist_ok=True)
    return open_source(source, scratch)


def picture(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("version", ["binary", "python"])
@pytest.mark.parametrize("form", ["folder", "folder above", "archive", "folder of the archive"])
def test_cifar10(version: str, form: str, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10"
    write(folder, binary_files() if version == "binary" else python_files())
    path = {"folder": folder, "folder above": tmp_path}.get(form)
    if path is None:
        (tmp_path / "kept").mkdir()
        archive = pack(folder, tmp_path / "kept" / f"cifar-10-{version}.tar.gz")
        path = archive if form == "archive" else archive.parent
    found = opened(f"cifar10:{path}", tmp_path / "scratch")
    assert (found.name, found.classes) == ("cifar10", NAMES)
    train = found.splits["train"]
    assert train.labels.tolist() == LABELS * 5
    pixels = train.read(5, Wanted(channels=3)).pixels
    assert np.array_equal(np.moveaxis(pixels, -1, 0).ravel(), BATCHES["data_batch_2"][1])


def test_cifar100_of_python(tmp_path: Path) -> None:
    pixels = BATCHES["test_batch"]
    batch = {b"data": pixels, b"fine_labels": LABELS, b"coarse_labels": [0] * 4}
    names = {b"fine_label_names": [name.encode() for name in NAMES], b"coarse_label_names": []}
    batches = {name: pickle.dumps(batch, 2) for name in ("train", "test")}
    write(tmp_path / "cifar-100-python", batches | {"meta": pickle.dumps(names, 2)})
    found = opened(f"cifar100:{tmp_path}", tmp_path / "scratch")
    assert found.classes == NAMES
    assert found.splits["test"].labels.tolist() == LABELS


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("print('run')",)


def test_a_pickle_that_calls_something_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, python_files() | {"data_batch_3": pickle.dumps({b"data": Evil()})})
    with pytest.raises(UserError, match=r"is not CIFAR-10: .* it would call builtins.exec"):
        opened(f"cifar10:{tmp_path}", tmp_path / "scratch")
    assert capsys.readouterr().out == ""


def test_a_copy_that_lacks_a_file(tmp_path: Path) -> None:
    files = binary_files()
    del files["data_batch_4.bin"]
    write(tmp_path, files)
    with pytest.raises(UserError, match=r"is not CIFAR-10: there is no data_batch_4.bin in it"):
        opened(f"cifar10:{tmp_path}", tmp_path / "scratch")


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_mnist(ending: str, tmp_path: Path) -> None:
    images = GENERATOR.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        for name, content in (
            (f"{split}-images-idx3-ubyte", bytes(16) + images.tobytes()),
            (f"{split}-labels-idx1-ubyte", bytes(8) + bytes(DIGITS)),
        ):
            packed = gzip.compress(content) if ending else content
            write(tmp_path / "MNIST" / "raw", {name + ending: packed})
    found = opened(f"mnist:{tmp_path}", tmp_path / "scratch")
    assert found.splits["test"].labels.tolist() == DIGITS
    pixels = found.splits["train"].read(2, Wanted(channels=1)).pixels
    assert np.array_equal(pixels[..., 0], images[2])


def test_svhn(tmp_path: Path) -> None:
    images = GENERATOR.integers(0, 256, (32, 32, 3, 10), dtype=np.uint8)
    labels = np.array([[label or 10] for label in DIGITS], np.uint8)
    for split in ("train", "test"):
        file = tmp_path / f"{split}_32x32.mat"
        savemat(file, {"X": images, "y": labels})
    found = opened(f"svhn:{tmp_path}", tmp_path / "scratch")
    assert found.splits["train"].labels.tolist() == DIGITS


def tiny_files() -> dict[str, bytes]:
    files = {
        f"train/{name}/images/{name}_0.JPEG": picture(n) for n, name in enumerate(("n1", "n2"))
    }
    files |= {f"val/images/val_{n}.JPEG": picture(9 + n) for n in range(2)}
    rows = "val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn1\t0\t0\t9\t9\n"
    return files | {
        "val/val_annotations.txt": rows.encode(),
        "test/images/test_0.JPEG": picture(5),
    }


@pytest.mark.parametrize("kind", ["tiny-imagenet", "folder"])
@pytest.mark.parametrize("form", ["folder", "folder above", "archive"])
def test_tiny_imagenet(kind: str, form: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "set" / "tiny", tiny_files())
    path = {"folder": folder, "folder above": folder.parent}.get(form, tmp_path / "tiny.zip")
    if form == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in tiny_files().items():
                archive.writestr(name, content)
    found = opened(f"{kind}:{path}", tmp_path / "scratch")
    assert (found.name, found.classes) == ("tiny-imagenet", ["n1", "n2"])
    assert found.splits["train"].labels.tolist() == [0, 1]
    assert found.splits["test"].labels.tolist() == [1, 0]


def ilsvrc_files() -> dict[str, bytes]:
    data = "ILSVRC/Data/CLS-LOC"
    files = {f"{data}/train/{n}/{n}_1.JPEG": picture(1) for n in ("n01", "n02")}
    files |= {f"{data}/val/ILSVRC2012_val_{n:08d}.JPEG": picture(n) for n in range(2)}
    return files | {f"{data}/test/ILSVRC2012_test_00000001.JPEG": picture(3)}


@pytest.mark.parametrize("kind", ["imagenet", "folder"])
def test_imagenet_as_kaggle_has_it(kind: str, tmp_path: Path) -> None:
    rows = "ImageId,PredictionString\nILSVRC2012_val_00000000,n02 1 2 3 4\n"
    rows += "ILSVRC2012_val_00000001,n01 1 2 3 4 n01 5 6 7 8\n"
    write(tmp_path / "kaggle", ilsvrc_files() | {"LOC_val_solution.csv": rows.encode()})
    found = opened(f"{kind}:{tmp_path / 'kaggle'}", tmp_path / "scratch")
    assert (found.name, found.classes) == ("imagenet", ["n01", "n02"])
    assert found.splits["test"].labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (binary_files(), "it looks like cifar10: give cifar10:"),
        ({"train_32x32.mat": b"", "test_32x32.mat": b""}, "it looks like svhn: give svhn:"),
        (ilsvrc_files(), "give imagenet:FOLDER with LOC_val_solution.csv"),
        ({"a/b/c.png": b""}, r"expected class folders .*\(train/CLASS/IMAGE\)$"),
    ],
)
def test_a_folder_of_another_layout_names_the_source(
    files: dict[str, bytes], match: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        opened(f"folder:{write(tmp_path / 'copy', files)}", tmp_path / "scratch")
