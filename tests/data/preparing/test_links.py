"""Links, special files and strange names: each real file counts once, nothing is lost unsaid."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynat_ray.data import DatasetInfo, load_info
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder


def counts(source: Path, out: Path, **options: object) -> DatasetInfo:
    prepare_dataset(f"folder:{source}", out, progress=False, **options)
    return load_info(out)


def left_out(info: DatasetInfo) -> dict[str, int]:
    return {each.what: each.count for each in info.account.left_out}


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "../../../train"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_link_into_a_folder_above_is_refused_by_name(
    target: str, skip_bad: bool, write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder()
    if target == "../../../train":
        (tmp_path / "train").symlink_to(root / "train")
    for name in ("all", "once more"):
        (root / "train" / "cat" / name).symlink_to(target)
    with pytest.raises(UserError, match="the link .*train/cat/all leads into a folder above"):
        counts(root, tmp_path / "out", skip_bad=skip_bad)
    assert not (tmp_path / "out").exists()


def test_a_way_round_through_a_folder_elsewhere_is_refused(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder()
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "back").symlink_to(root / "train")
    (root / "train" / "cat" / "more").symlink_to(tmp_path / "pool")
    with pytest.raises(UserError, match="the link .*train/cat/more/back leads into a folder above"):
        counts(root, tmp_path / "out")


def test_each_real_file_counts_once(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    pool = tmp_path / "pool"
    pool.mkdir()
    Image.new("RGB", (10, 12), "red").save(pool / "p.png")
    cat = root / "train" / "cat"
    (cat / "of a file").symlink_to("000.png")
    (cat / "of a class").symlink_to("../dog")
    (cat / "of a pool").symlink_to(pool)
    (cat / "of a pool again").symlink_to(pool)
    (root / "train" / "eel" / "test image.png").symlink_to("../../test/eel/000.png")
    info = counts(root, tmp_path / "out")
    assert info.account.counts["train"] == {"cat": 7, "dog": 6, "eel": 6}
    assert left_out(info) == {"links to images that count already": 9}
    assert "train/cat/of a class/000.png -> " in info.account.left_out[0].examples[0]


def test_images_that_only_links_lead_to_count(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    pool = root / "pool"
    for split in ("train", "test"):
        for folder in sorted((root / split).iterdir()):
            target = pool / split / folder.name
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            if folder.name == "cat":
                folder.symlink_to(target)
            else:
                folder.mkdir()
                for file in target.iterdir():
                    (folder / file.name).symlink_to(file)
    info = counts(root, tmp_path / "out")
    assert info.counts == {"train": 18, "test": 6}
    assert left_out(info) == {"files under pool, which is no split": 24}


def test_a_split_that_is_a_link_to_the_other_is_said(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder(test=1)
    (root / "test").rename(tmp_path / "elsewhere")
    (root / "test").symlink_to("train")
    with pytest.raises(UserError, match="all test images of class 'cat' are links to images"):
        counts(root, tmp_path / "out")


def make_tar(root: Path, archive: Path, links: dict[str, tuple[bytes, str]]) -> Path:
    with tarfile.open(archive, "w") as opened:
        opened.add(root, ".")
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            opened.addfile(member)
    return archive


def make_zip(root: Path, archive: Path, links: dict[str, tuple[bytes, str]]) -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in root.rglob("*"):
            opened.write(path, path.relative_to(root))
        for name, (kind, target) in links.items():
            member = zipfile.ZipInfo(name)
            member.create_system = 3
            mode = stat.S_IFLNK if kind == tarfile.SYMTYPE else stat.S_IFIFO
            member.external_attr = (mode | 0o777) << 16
            opened.writestr(member, target)
    return archive


SYMBOLIC, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


def test_hard_links_of_a_tar_are_images(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    os.link(root / "train" / "cat" / "000.png", root / "train" / "cat" / "zzz.png")
    archive = make_tar(root, tmp_path / "pets.tar", {})
    folder, packed = counts(root, tmp_path / "a"), counts(archive, tmp_path / "b")
    assert folder.counts == packed.counts == {"train": 19, "test": 6}
    assert folder.checksum == packed.checksum


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_links_of_an_archive_are_followed_inside_of_it(
    make: Callable[..., Path], write_folder: WriteFolder, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (10, 12), "red").save(secret)
    root = write_folder()
    Image.new("RGB", (10, 12), "blue").save(root / "pool.png")
    links = {
        "train/cat/a.png": (SYMBOLIC, "000.png"),
        "train/cat/b.png": (SYMBOLIC, "../../pool.png"),
        "train/cat/c.png": (SYMBOLIC, "b.png"),
        "train/dog/more": (SYMBOLIC, "../eel"),
        "train/dog/out.png": (SYMBOLIC, str(secret)),
        "train/dog/up.png": (SYMBOLIC, "../../../secret.png"),
        "train/dog/gone.png": (SYMBOLIC, "nowhere.png"),
        "train/dog/round.png": (SYMBOLIC, "round.png"),
    }
    if make is make_tar:
        links["train/eel/z.png"] = (HARD, "./pool.png")
    info = counts(make(root, tmp_path / f"pets.{make.__name__[5:]}", links), tmp_path / "out")
    assert info.account.counts["train"] == {"cat": 9, "dog": 6, "eel": 6 + (make is make_tar)}
    found = left_out(info)
    assert found["links of the archive that lead out of it or to nothing"] == 4
    assert found["links to images that count already"] == 6 + (make is make_tar)
    names = str(info.account.left_out)
    assert all(f"train/dog/{name}.png" in names for name in ("out", "up", "gone", "round"))


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_link_of_an_archive_into_a_folder_above_is_refused(
    make: Callable[..., Path], write_folder: WriteFolder, tmp_path: Path
) -> None:
    links = {"train/cat/all": (SYMBOLIC, "../..")}
    archive = make(write_folder(), tmp_path / f"pets.{make.__name__[5:]}", links)
    with pytest.raises(UserError, match="the link .*train/cat/all leads into a folder above"):
        counts(archive, tmp_path / "out", skip_bad=True)


def test_links_that_multiply_an_archive_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    with tarfile.open(archive, "w") as opened:
        big = tarfile.TarInfo("train/cat/a.png")
        big.size = 2**20
        opened.addfile(big, io.BytesIO(bytes(2**20)))
        for number in range(600):
            member = tarfile.TarInfo(f"train/cat/{number}.png")
            member.type, member.linkname = HARD, big.name
            opened.addfile(member)
    with archive.open("r+b") as file:
        file.truncate(file.seek(0, 2))
    os.system(f"gzip -f {archive}")
    with pytest.raises(UserError, match="unpacks to far more than its own size"):
        counts(archive.with_suffix(".tar.gz"), tmp_path / "out")


def test_a_pipe_in_an_archive_is_refused_by_name(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    for make in (make_tar, make_zip):
        links = {"train/cat/pipe.png": (tarfile.FIFOTYPE, "")}
        archive = make(root, tmp_path / f"pets.{make.__name__[5:]}", links)
        with pytest.raises(UserError, match=r"pipe.png \(it is a named pipe\); .*--skip-bad"):
            counts(archive, tmp_path / "out")
        assert counts(archive, tmp_path / "out", skip_bad=True).skipped == 1


def test_special_files_are_refused_by_name_or_left_out(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder()
    monkeypatch.chdir(root)
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("train/dog/socket.png")
    (root / "train" / "eel" / "device.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"pipe.png \(it is a named pipe\) and 2 more"):
        counts(root, tmp_path / "out")
    info = counts(root, tmp_path / "out", skip_bad=True)
    assert info.counts["train"] == 18
    for words in ("it is a named pipe", "it is a socket", "it is a device"):
        assert words in str(info.account.left_out)


def test_files_that_are_no_images_are_counted(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    for name in ("train/cat/.DS_Store", "train/cat/._000.png", "train/dog/Thumbs.db"):
        (root / name).write_text("x")
    (root / "train" / "cat" / "@eaDir").mkdir()
    (root / "labels.csv").write_text("x")
    for other in ("val", "extra"):
        (root / other / "cat").mkdir(parents=True)
        (root / other / "cat" / "a.png").write_text("x")
    assert left_out(counts(root, tmp_path / "out")) == {
        "hidden files and folders": 4,
        "files outside of class folders": 1,
        "files under extra, which is no split": 1,
        "files under val, which is not the test split: test is": 1,
    }


def test_a_zip_with_backslashes_is_a_folder(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    archive = tmp_path / "windows.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in root.rglob("*"):
            name = str(path.relative_to(root)).replace("/", "\\")
            if path.is_dir():
                opened.writestr(f"{name}\\", b"")
            else:
                opened.write(path, name)
    expected = counts(root, tmp_path / "a")
    assert counts(archive, tmp_path / "b").checksum == expected.checksum
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        opened.writestr("..\\evil.png", b"x")
    with pytest.raises(UserError, match="unsafe"):
        counts(tmp_path / "evil.zip", tmp_path / "c")


def test_names_of_classes_are_the_same_however_composed(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    composed, split = "caf\u00e9", "cafe\u0301"
    root = write_folder(classes=(composed, "dog"))
    (root / "test" / composed).rename(root / "test" / split)
    (root / "train" / split).mkdir()
    image = np.random.default_rng(9).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(image).save(root / "train" / split / "x.png")
    info = counts(root, tmp_path / "out")
    assert info.classes == [composed, "dog"]
    assert info.account.counts["train"] == {composed: 7, "dog": 6}
    assert "how Unicode composes letters" in info.account.notes[0]


def test_names_that_differ_in_case_are_pointed_at(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder(classes=("cat", "Cat"))
    assert "'Cat' and 'cat'" in str(counts(root, tmp_path / "out").account.warnings)
    (root / "test" / "Cat").rename(root / "test" / "CAT")
    with pytest.raises(UserError, match="only in train: Cat; .*upper and lower case"):
        counts(root, tmp_path / "other")
