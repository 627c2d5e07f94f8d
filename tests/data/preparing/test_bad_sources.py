"""What is wrong with a source is said in one sentence, and nothing is left behind."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynat_ray.data import load_info, load_split
from dynat_ray.data.preparing import archives, image_files, prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder


def refused(source: str, out: Path, match: str, **options: bool) -> None:
    """Checks that preparing fails with a message, and that no folder remains."""
    with pytest.raises(UserError, match=match):
        prepare_dataset(source, out, progress=False, **options)  # type: ignore[arg-type]
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ("digit", "unknown source 'digit'; did you mean digits"),
        ("folder:", "no file or folder ''"),
        ("folder:/nowhere/at/all", "no file or folder '/nowhere/at/all'"),
        ("imagenet", "imagenet:FOLDER"),
        ("digits:/tmp", "unknown source"),
    ],
)
def test_wrong_names(source: str, match: str, tmp_path: Path) -> None:
    refused(source, tmp_path / "out", match)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(f"folder:{tmp_path / 'empty'}", tmp_path / "out", "no images under train; expected")


def test_no_test_images(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    shutil.rmtree(root / "test")
    refused(f"folder:{root}", tmp_path / "out", "no images under test or val; expected")


def test_one_class(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(classes=("cat",))
    refused(f"folder:{root}", tmp_path / "out", r"only one class \(cat\)")


def test_different_classes(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    (root / "test" / "dog").rename(root / "test" / "wolf")
    refused(
        f"folder:{root}",
        tmp_path / "out",
        "different classes; only in train: dog; only in test: wolf",
    )


def damage(root: Path) -> None:
    """Truncates one image and adds a file that is none."""
    victim = root / "train" / "cat" / "001.png"
    victim.write_bytes(victim.read_bytes()[:-60])
    (root / "train" / "dog" / "notes.txt").write_text("todo: more dogs")


def test_all_images_without_a_header_are_counted(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    for name in ("cat/000.png", "dog/000.png"):
        (root / "train" / name).write_text("no image")
    refused(
        f"folder:{root}",
        tmp_path / "out",
        r"train/cat/000.png \(not an image\) and 1 more; repair them, or .*--skip-bad",
    )


def test_leaving_out_most_of_a_class_is_not_advised(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root, out = write_folder(), tmp_path / "out"
    for path in sorted((root / "train" / "dog").iterdir())[:4]:
        path.write_text("no image")
    lost = "4 of 6 train images of class 'dog'"
    with pytest.raises(UserError, match=f"and 3 more, {lost} among them") as caught:
        prepare_dataset(f"folder:{root}", out, progress=False)
    assert "--skip-bad" not in str(caught.value)
    info = prepare_dataset(f"folder:{root}", out, skip_bad=True, progress=False)
    assert f"--skip-bad left out {lost}" in info.account.warnings


@pytest.mark.parametrize("name", ["notes.txt", "001.png"])
def test_an_unreadable_image_is_named(name: str, write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    damage(root)
    other = {"notes.txt": "cat/001.png", "001.png": "dog/notes.txt"}[name]
    (root / "train" / other).unlink()
    refused(f"folder:{root}", tmp_path / "out", f"cannot read image .*{name}.*--skip-bad")


def test_unreadable_images_can_be_left_out(write_folder: WriteFolder, tmp_path: Path) -> None:
    root, out = write_folder(), tmp_path / "out"
    damage(root)
    info = prepare_dataset(f"folder:{root}", out, skip_bad=True, progress=False)
    assert info.skipped == 2
    assert info.counts == {"train": 17, "test": 6}
    assert load_info(out).skipped == 2
    assert load_split(out, "train")[1].bincount().tolist() == [5, 6, 6]


def test_too_little_memory_is_not_taken_for_a_bad_image(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    root = write_folder()
    for name in ("_without_transparency", "lies_on_its_side"):
        monkeypatch.setattr(image_files, name, fail)
        with pytest.raises(MemoryError):
            prepare_dataset(f"folder:{root}", tmp_path / "out", skip_bad=True, progress=False)


def test_a_class_without_a_readable_image(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    for path in (root / "test" / "eel").iterdir():
        path.write_bytes(b"")
    refused(f"folder:{root}", tmp_path / "out", "'eel' has no usable test", skip_bad=True)


def test_a_damaged_archive(write_folder: WriteFolder, tmp_path: Path) -> None:
    root, archive = write_folder(), tmp_path / "pets.tar.xz"
    with tarfile.open(archive, "w:xz") as opened:
        opened.add(root, "pets")
    archive.write_bytes(archive.read_bytes()[:-2000])
    refused(f"folder:{archive}", tmp_path / "out", "is damaged")


def test_a_zip_of_another_kind(tmp_path: Path) -> None:
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("train/cat/a.png", b"x")
    content = bytearray(archive.read_bytes())
    # Method 9 is Deflate64, Windows Explorer's for large files.
    content[content.index(b"PK\1\2") + 10] = 9
    archive.write_bytes(content)
    refused(f"folder:{archive}", tmp_path / "out", "takes another program.*unpack it yourself")


def test_a_class_name_that_is_not_utf8(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    for split in ("train", "test"):
        (root / split / "dog").rename(root / split / os.fsdecode(b"chi\xebn"))
    refused(f"folder:{root}", tmp_path / "out", r"name 'chi\\udcebn' is not UTF-8; rename it")


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "pets.zip").write_text("no zip")
    refused(f"folder:{tmp_path / 'pets.zip'}", tmp_path / "out", "neither a folder nor")


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "train/../../evil.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_would_write_elsewhere(name: str, kind: str, tmp_path: Path) -> None:
    archive = tmp_path / f"evil.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(name, b"x")
    else:
        with tarfile.open(archive, "w") as opened:
            member = tarfile.TarInfo(name)
            member.size = 1
            opened.addfile(member, io.BytesIO(b"x"))
    refused(f"folder:{archive}", tmp_path / "out", "unsafe")
    assert not list(tmp_path.rglob("evil.png"))


def test_an_archive_that_declares_too_much(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("train/cat/a.png", bytes(100_000))
    monkeypatch.setattr(archives, "LARGEST_MEMBER", 50_000)
    refused(f"folder:{archive}", tmp_path / "out", "declares 100,000 bytes")
    monkeypatch.undo()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=99_999))
    refused(f"folder:{archive}", tmp_path / "out", "more than is free on the disk")


IMAGES = np.zeros((6, 4, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"image": IMAGES}, "no array 'label'"),
        ({"image": IMAGES, "label": LABELS[:5]}, "must be 6 integers"),
        ({"image": IMAGES, "label": LABELS.astype(float)}, "must be 6 integers"),
        ({"image": IMAGES, "label": LABELS - 1}, "label -1 is out of range"),
        ({"image": IMAGES, "label": LABELS * 100}, "label 100 is out of range"),
        ({"image": IMAGES.astype(np.float32), "label": LABELS}, "must be uint8"),
        ({"image": IMAGES[..., :2], "label": LABELS}, "must be uint8"),
        ({"image": IMAGES, "label": LABELS * 0}, "only one class"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, "has no images"),
        ({"image": IMAGES.astype(object), "label": LABELS}, "cannot read array 'image'"),
    ],
)
def test_bad_npz(arrays: dict[str, np.ndarray], match: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(f"npz:{tmp_path / 'bad.npz'}", tmp_path / "out", match)


def test_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", IMAGES)
    refused(f"npz:{tmp_path / 'bad.npy'}", tmp_path / "out", "not an npz file")


def test_npz_gives_a_training_split(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "made.npz", image=images, label=LABELS.astype(np.uint8))
    info = prepare_dataset(f"npz:{tmp_path / 'made.npz'}", tmp_path / "out", progress=False)
    assert info.counts == {"train": 6}
    stored, labels = load_split(tmp_path / "out", "train")
    assert np.array_equal(stored.permute(0, 2, 3, 1).numpy(), images)
    assert labels.tolist() == LABELS.tolist()
    with pytest.raises(UserError, match="has no test split, only train"):
        load_split(tmp_path / "out", "test")


def test_an_image_that_is_a_program_is_no_image(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    Image.new("RGB", (8, 8)).save(root / "train" / "cat" / "x.png", "EPS")
    refused(f"folder:{root}", tmp_path / "out", r"x.png \(not an image\)")
