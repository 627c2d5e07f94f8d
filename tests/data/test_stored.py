"""Whole splits, from either file, and folders that hold none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from dynat_ray.data import load_info, load_labels, load_split, load_test_images
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder


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
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    pytest.importorskip("ffcv")
    root, out = write_folder(), tmp_path / "out"
    info = prepare_dataset(f"folder:{root}", out, progress=False)
    expected = load_split(out, "test"), load_split(out, "test", limit=3)
    (out / "test.safetensors").unlink()
    del info.files["test.safetensors"]
    info.save(out)
    found = load_split(out, "test"), load_split(out, "test", limit=3)
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
