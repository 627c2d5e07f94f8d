"""The account of a data set, what `--drop-duplicates` drops, and the contact sheet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynat_ray.data import load_info, load_split
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.preparing.preview import Preview
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder


def with_duplicates(root: Path) -> Path:
    """Two of one in training, one in training and test, one that is in another class too."""
    train, test = root / "train", root / "test"
    shutil.copy(train / "cat" / "000.png", train / "cat" / "again.png")
    shutil.copy(test / "dog" / "000.png", train / "dog" / "leak.png")
    shutil.copy(train / "eel" / "000.png", train / "dog" / "eel.png")
    # The same pixels in another format.
    Image.open(train / "eel" / "001.png").save(train / "eel" / "bitmap.bmp")
    for split in (train, test):
        Image.new("RGB", (10, 12), "black").save(split / "eel" / "black.png")
    return root


def test_constant_images_and_duplicates_are_warned_of(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = with_duplicates(write_folder())
    warnings = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False).account.warnings
    assert [each.partition(" (")[0] for each in warnings] == [
        "train images whose pixels are all the same: 1 of 23",
        "test images whose pixels are all the same: 1 of 7",
        "train images with the pixels of another train image: 3",
        "train images with the pixels of a test image, so that the test says too much: 2",
        "images that are in several classes: 1",
    ]
    assert "train/dog/leak.png = test/dog/000.png" in warnings[3]
    assert "train/dog/eel.png = train/eel/000.png" in warnings[4]


def test_duplicates_are_dropped_from_training(write_folder: WriteFolder, tmp_path: Path) -> None:
    root, out = with_duplicates(write_folder()), tmp_path / "out"
    info = prepare_dataset(f"folder:{root}", out, drop_duplicates=True, progress=False)
    assert info.counts == {"train": 18, "test": 7}
    assert {
        each.what.removesuffix(" (--drop-duplicates)"): each.count for each in info.account.left_out
    } == {
        "train images with the pixels of another train image": 3,
        "train images with the pixels of a test image": 2,
    }
    assert not any("the pixels of" in each for each in info.account.warnings)
    train, test = (load_split(out, split)[0].flatten(1) for split in ("train", "test"))
    rows = {row.numpy().tobytes() for row in train}
    assert len(rows) == 18
    assert not rows & {row.numpy().tobytes() for row in test}
    assert "--drop-duplicates" in info.command(out)


def test_advice_about_duplicates_works(write_folder: WriteFolder, tmp_path: Path) -> None:
    """Each warning that names an option is gone with it."""
    root = with_duplicates(write_folder())
    before = prepare_dataset(f"folder:{root}", tmp_path / "a", progress=False).account.warnings
    advised = [each for each in before if "--drop-duplicates" in each]
    after = prepare_dataset(
        f"folder:{root}", tmp_path / "b", drop_duplicates=True, progress=False
    ).account.warnings
    assert len(advised) == 2
    assert not any("--drop-duplicates" in each for each in after)


def test_nothing_is_said_of_a_sound_data_set(write_folder: WriteFolder, tmp_path: Path) -> None:
    account = prepare_dataset(f"folder:{write_folder()}", tmp_path / "out", progress=False).account
    assert account.counts == {
        "train": {"cat": 6, "dog": 6, "eel": 6},
        "test": {"cat": 2, "dog": 2, "eel": 2},
    }
    assert account.lines() == ["train: cat 6, dog 6, eel 6", "test: cat 2, dog 2, eel 2"]


def test_classes_of_a_single_image_are_named(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(test=1)
    account = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False).account
    assert account.warnings == ["classes of a single test image: 3 of 3 (cat, dog, eel)"]


@pytest.mark.parametrize(
    ("classes", "order", "note"),
    [
        (("1", "2", "10"), "number", "1, 2, 10; tools that sort them as text have 1, 10, 2"),
        (("0", "1", "2"), "text", ""),
        (("a", "b"), "text", ""),
    ],
)
def test_the_order_of_classes_is_said(
    classes: tuple[str, ...], order: str, note: str, write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder(classes=classes)
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["class_order"] == order
    assert note in " ".join(info.account.notes)
    assert bool(info.account.notes) == bool(note)


def test_the_account_survives_being_stored(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = with_duplicates(write_folder())
    (root / "train" / "cat" / ".hidden").write_text("x")
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert load_info(tmp_path / "out").account == info.account


@pytest.mark.parametrize(
    "account",
    [
        [],
        {"unknown": 1},
        {"counts": {"train": {"cat": -1}}},
        {"counts": ["train"]},
        {"left_out": [{"what": 3}]},
        {"left_out": [{"what": "x", "count": "many"}]},
        {"warnings": [3]},
    ],
)
def test_an_account_that_is_none_is_refused(
    account: object, write_folder: WriteFolder, tmp_path: Path
) -> None:
    prepare_dataset(f"folder:{write_folder()}", tmp_path / "out", progress=False)
    file = tmp_path / "out" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"account": account}))
    with pytest.raises(UserError, match="is damaged"):
        load_info(tmp_path / "out")


def test_a_name_that_no_terminal_should_see(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(classes=("cat", "\x1b[2Jdog"))
    (root / "train" / "\x1b[2Jdog" / ".\udcff\x1b").write_text("x")
    account = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False).account
    assert all(line.isprintable() for line in account.lines())


def test_npz_files_have_an_account_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    images[3] = images[1]
    images[5] = 7
    np.savez(tmp_path / "made.npz", image=images, label=np.array([0, 1, 0, 0, 1, 0]))
    info = prepare_dataset(f"npz:{tmp_path / 'made.npz'}", tmp_path / "out", progress=False)
    assert info.account.counts == {"train": {"0": 4, "1": 2}}
    text = " ".join(info.account.warnings)
    for words in ("all the same: 1 of 6 (image 5)", "image 1 = image 3", "several classes: 1"):
        assert words in text
    dropped = prepare_dataset(
        f"npz:{tmp_path / 'made.npz'}", tmp_path / "out", drop_duplicates=True, progress=False
    )
    assert dropped.counts == {"train": 5}


def test_the_contact_sheet_shows_every_class(write_folder: WriteFolder, tmp_path: Path) -> None:
    root, out = write_folder(classes=("cat", "dog")), tmp_path / "out"
    for split in ("train", "test"):
        for path in (root / split / "dog").iterdir():
            Image.new("RGB", (10, 12), (255, 0, 0)).save(path)
    info = prepare_dataset(f"folder:{root}", out, progress=False)
    sheet = np.asarray(Image.open(out / "preview.png")).astype(int)
    red = (sheet == [255, 0, 0]).all(axis=2)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    # Six training images and two test images, in one row below that of cats.
    assert red.sum() == 8 * 64 * round(64 * 10 / 12)
    assert len(rows) == 64
    assert rows[0] > sheet.shape[0] // 2
    assert columns[-1] - columns[0] > 8 * 64
    assert "preview.png" not in info.files


def test_a_large_contact_sheet_is_a_part(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(1000)]
    preview = Preview({"train": np.arange(1000), "test": np.arange(1000)}, classes)
    wanted = [number for number in range(1000) if preview.wants("train", number)]
    assert len(wanted) == 40
    assert {0, 999} <= set(wanted)
    for number in wanted:
        preview.add("train", number, np.zeros((5, 7, 1), np.uint8))
    preview.save(tmp_path / "sheet.png", "many")
    assert Image.open(tmp_path / "sheet.png").height < 3000
