"""Whole splits, from either file, and folders that hold none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dynat_ray.data import load_info, load_labels, load_split, load_test_images
from dynat_ray.data.info import describe_file
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder
from tests.data.loading import compile_nothing


def test_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; make it with: python -m dynat_ray.prep"):
        load_info(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no dataset.json"):
        load_info(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        load_info(tmp_path)


def test_test_images_are_floats_in_source_order(digits: Path) -> None:
    images, labels = load_split(digits, "test")
    floats, same = load_test_images(digits)
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().to(torch.uint8), images)
    assert torch.equal(labels, same)
    assert torch.equal(load_labels(digits, "test"), labels)
    some, some_labels = load_test_images(digits, limit=30)
    assert some_labels.bincount().tolist() == [3] * 10
    positions = [int((floats == image).all((1, 2, 3)).nonzero()[0]) for image in some]
    assert positions == sorted(positions)


def test_a_split_without_safetensors_is_read_from_its_beton(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ffcv")
    root, out = write_folder(), tmp_path / "out"
    info = prepare_dataset(f"folder:{root}", out, progress=False)
    expected = load_split(out, "test"), load_split(out, "test", limit=3)
    (out / "test.safetensors").unlink()
    del info.files["test.safetensors"]
    info.save(out)
    found = [load_split(out, "test")]
    compile_nothing(monkeypatch)  # A second time it would be the same.
    found.append(load_split(out, "test", limit=3))
    for (images, labels), (same, same_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
    assert torch.equal(load_labels(out, "test"), expected[0][1])


def test_an_image_of_one_row_is_read(write_folder: WriteFolder, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    root, out = write_folder(classes=("cat", "dog"), train=1, test=1), tmp_path / "out"
    Image.new("RGB", (40, 1), (200, 200, 200)).save(root / "train" / "cat" / "000.png")
    prepare_dataset(f"folder:{root}", out, progress=False)
    images, _ = load_split(out, "train", image_size=4)
    assert images[0].unique().tolist() == [200]


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ((torch.float32, (359, 1, 8, 8)), (torch.int64, (359,), 3), "holds images"),
        ((torch.uint8, (359, 3, 8, 8)), (torch.int64, (359,), 3), "holds images"),
        ((torch.uint8, (358, 1, 8, 8)), (torch.int64, (359,), 3), "holds images"),
        ((torch.uint8, (359, 64)), (torch.int64, (359,), 3), "holds images"),
        ((torch.uint8, (359, 1, 8, 8)), (torch.int32, (359,), 3), "holds labels"),
        ((torch.uint8, (359, 1, 8, 8)), (torch.int64, (359, 1), 3), "holds labels"),
        ((torch.uint8, (359, 1, 8, 8)), (torch.int64, (359,), 10), "holds labels"),
        ((torch.uint8, (359, 1, 8, 8)), (torch.int64, (359,), -1), "holds labels"),
        (None, (torch.int64, (359,), 3), "damaged"),
        ((torch.uint8, (359, 1, 8, 8)), None, "damaged"),
    ],
)
def test_tensors_of_another_kind_are_refused(
    digits: Path, tmp_path: Path, images: Any, labels: Any, words: str
) -> None:
    info = load_info(digits)
    assert info.counts["test"] == 359
    tensors = {}
    if images is not None:
        tensors["images"] = torch.zeros(images[1], dtype=images[0])
    if labels is not None:
        tensors["labels"] = torch.full(labels[1], labels[2], dtype=labels[0])
    save_file(tensors, tmp_path / "test.safetensors")
    info.files["test.safetensors"] = describe_file(tmp_path / "test.safetensors")
    info.save(tmp_path)
    with pytest.raises(UserError, match=rf"test\.safetensors.*{words}"):
        load_split(tmp_path, "test")
