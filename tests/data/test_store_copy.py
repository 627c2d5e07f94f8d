"""Data sets in an object store: what this machine fetches of them, and when."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer

from dynat_ray.data import (
    BatchPlan,
    LazySplit,
    ReadingOptions,
    build_loader,
    load_info,
    load_labels,
    load_split,
    load_test_images,
    part_fetching,
    store_copy,
)
from dynat_ray.data.preparing import part_sending, prepare_dataset
from dynat_ray.data.store_copy import data_folder, require_here
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder
from tests.data.loading import compile_nothing
from tests.data.stores import Objects, watched

SMALL = 3 * 12 * 10 * 8
PART = "train-00001-of-00002.safetensors"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(part_sending, "_PART_BYTES", SMALL)
    monkeypatch.setattr("dynat_ray.object_store._PAUSES", (0.0, 0.0))
    monkeypatch.setattr("dynat_ray.data.cache_room._SPARE", 0)
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def source(write_folder: WriteFolder) -> str:
    """Twelve training images and six of the test, of one size."""
    return f"folder:{write_folder(train=4)}"


@pytest.fixture(scope="module")
def prepared() -> list[str]:
    """Where the source was prepared in the store, once it was; no test may change it."""
    return []


@pytest.fixture
def address(source: str, prepared: list[str], bucket: str, s3: str) -> str:
    """The source in a bucket of the test's own."""
    if not prepared:
        prepare_dataset(source, f"{bucket}/once", progress=False)
        prepared.append(f"{bucket}/once")
    Objects(s3, f"{bucket}/set").copy_from(Objects(s3, prepared[0]))
    return f"{bucket}/set"


def fetched(made: list[str]) -> list[str]:
    """Returns the names of the parts that were asked for, each as often as it was."""
    names = [each.rpartition("/")[2] for each in made if each.startswith("GET ")]
    return sorted(name for name in names if "-of-" in name)


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    store_copy._description.cache_clear()


def test_it_reads_as_the_folder_does(source: str, address: str, tmp_path: Path) -> None:
    local = tmp_path / "local"
    prepare_dataset(source, local, progress=False)
    assert load_info(address).checksum == load_info(local).checksum
    for split in ("train", "test"):
        for one, other in zip(load_split(address, split), load_split(local, split), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(load_test_images(address)[0], load_test_images(local)[0])
    lazy = pickle.loads(pickle.dumps(LazySplit(address, "test")))
    assert torch.equal(lazy[torch.tensor([1])], load_split(local, "test")[0][1:2])
    batches = []
    for place in (address, local):
        options = ReadingOptions(device=torch.device("cpu"))
        plan = BatchPlan(batch_size=5, seed=3)
        loader = build_loader(place, "train", np.arange(12), plan, options)
        batches.append([(batch.images, batch.indices) for batch in loader.iterate(1)])
        loader.close()
    for one, other in zip(*batches, strict=True):
        assert all(map(torch.equal, one, other))


def test_what_is_not_asked_for_is_not_fetched(address: str, server: ThreadedMotoServer) -> None:
    with watched(server) as made:
        load_labels(address, "test")
        load_split(address, "test")
    assert set(fetched(made)) == {"test-00000-of-00001.safetensors"}
    with watched(server) as made:
        load_split(address, "test")
    assert made == []


def test_labels_of_a_large_set_take_no_pixels(
    write_folder: WriteFolder,
    server: ThreadedMotoServer,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ffcv")
    compile_nothing(monkeypatch)
    folder = write_folder(train=4)
    # Of several sizes, so that there is no file but the beton.
    shutil.copytree(write_folder("others", size=(9, 8)) / "train" / "cat", folder / "train" / "x")
    for file in (folder / "train" / "x").iterdir():
        file.rename(folder / "train" / "cat" / f"small-{file.name}")
    (folder / "train" / "x").rmdir()
    part_sending._PART_BYTES = 500 * 500 // 2 * 3
    info = prepare_dataset(f"folder:{folder}", f"{bucket}/set", progress=False)
    prepare_dataset(f"folder:{folder}", tmp_path / "local", progress=False)
    assert set(info.files) == {"train.beton", "test.beton"}
    count = len(info.parts["train.beton"])
    assert count > 3
    with watched(server) as made:
        labels = load_labels(f"{bucket}/set", "train")
    assert torch.equal(labels, load_labels(tmp_path / "local", "train"))
    ends = {f"train-{number:05d}-of-{count:05d}.beton" for number in (0, count - 1)}
    assert set(fetched(made)) == ends
    with watched(server) as made:
        images, _ = load_split(f"{bucket}/set", "train", image_size=8)
    assert len(set(fetched(made))) == count - 2
    assert torch.equal(images, load_split(tmp_path / "local", "train", image_size=8)[0])


def test_a_fetch_that_was_killed_goes_on(
    address: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(asked: str) -> tuple[str, str] | None:
        return ("403 Forbidden", "AccessDenied") if asked.endswith(PART) else None

    # One after the other: what is on its way when a part fails is given up.
    monkeypatch.setattr(part_fetching, "_CONNECTIONS", 1)
    with watched(server, refuse), pytest.raises(UserError, match="refuses the keys"):
        load_split(address, "train")
    new_process(monkeypatch)
    with watched(server) as made:
        load_split(address, "train")
    assert set(fetched(made)) == {PART}


def test_a_part_that_came_damaged_once_is_fetched_again(
    address: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, copied = Objects(s3, address), []
    good = objects.read(PART)
    objects.write(PART, bytes(len(good)))
    copy = part_fetching._Part.copy

    def repaired(*arguments: Any) -> str:
        copied.append(problem := copy(*arguments))
        if problem:
            objects.write(PART, good)
        return problem

    monkeypatch.setattr(part_fetching._Part, "copy", repaired)
    load_split(address, "train")
    assert sorted(copied) == ["", "", "damaged: its checksum is wrong"]


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda content: bytes(len(content)), "damaged: its checksum is wrong"),
        (lambda content: content[:-1], r"damaged: \d+ bytes instead of \d+"),
        (lambda content: content + b"x", r"damaged: \d+ bytes instead of \d+"),
        (None, "missing"),
    ],
)
def test_a_part_that_is_damaged_is_named(
    address: str, s3: str, server: ThreadedMotoServer, spoil: object, match: str
) -> None:
    objects = Objects(s3, address)
    if spoil is None:
        objects.delete(PART)
    else:
        objects.write(PART, spoil(objects.read(PART)))  # type: ignore[operator]
    with watched(server) as made, pytest.raises(UserError, match=f"{PART} is {match}; prepare"):
        load_split(address, "train")
    heads = [each for each in made if each == f"HEAD {address.removeprefix('s3:/')}/{PART}"]
    assert len(heads) == 2


def test_keys_that_are_refused_are_said_to_be_in_one_line(
    address: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code in ("ExpiredToken", "InvalidAccessKeyId", "AccessDenied"):
        new_process(monkeypatch)
        with (
            watched(server, lambda asked, code=code: ("403 Forbidden", code)) as made,
            pytest.raises(UserError, match="refuses the keys of this machine") as caught,
        ):
            load_info(address)
        assert len(str(caught.value).splitlines()) == 1
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
        assert len(made) == 1


def test_a_store_that_is_away_is_said_to_be(
    address: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_process(monkeypatch)
    refuse = lambda asked: ("400 Bad Request", "RequestTimeout")  # noqa: E731
    with watched(server, refuse), pytest.raises(UserError, match="does not answer as it should"):
        load_info(address)
    with watched(server, refuse), pytest.raises(UserError, match="what is fetched is kept"):
        require_here(load_info(data_folder(address)), data_folder(address) / "test.beton")


def test_where_there_is_no_data_set(s3: str, bucket: str) -> None:
    with pytest.raises(UserError, match=r"no data set at s3://.*/none.*make it with"):
        load_info(f"{bucket}/none")
    Objects(s3, f"{bucket}/half").write("unfinished.json", b"{}")
    with pytest.raises(UserError, match="is not complete: `prepare` is still writing it"):
        load_info(f"{bucket}/half")
    Objects(s3, f"{bucket}/odd").write("dataset.json", b"{")
    with pytest.raises(UserError, match=r"/odd/dataset\.json is damaged"):
        load_info(f"{bucket}/odd")
    with pytest.raises(UserError, match="no-such-bucket"):
        load_info("s3://no-such-bucket/set")


def test_a_folder_that_was_copied_there_is_read_as_well(
    source: str, s3: str, bucket: str, tmp_path: Path
) -> None:
    prepare_dataset(source, tmp_path / "local", progress=False)
    objects = Objects(s3, f"{bucket}/copied")
    for file in (tmp_path / "local").iterdir():
        objects.write(file.name, file.read_bytes())
    images, _ = load_split(f"{bucket}/copied", "train")
    assert torch.equal(images, load_split(tmp_path / "local", "train")[0])


def test_two_that_want_the_same_set_fetch_it_once(
    address: str, server: ThreadedMotoServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, info = data_folder(address), load_info(address)
    with watched(server) as made:
        threads = [
            threading.Thread(target=require_here, args=(info, folder / "train.safetensors"))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len([each for each in made if each.startswith("GET")]) == 2
    assert "waiting for another process that fetches s3://" in capsys.readouterr().err


def test_a_set_that_changed_in_the_store_is_fetched_anew(
    write_folder: WriteFolder, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_info(address).checksum
    prepare_dataset(f"folder:{write_folder('other', size=(5, 5))}", address, progress=False)
    # The process that has seen the first goes on with it.
    assert load_info(address).checksum == before
    new_process(monkeypatch)
    assert load_info(address).size == (5, 5)
    assert load_split(address, "train")[0].shape[2:] == (5, 5)


def test_the_least_recently_used_goes_and_what_is_in_use_stays(
    source: str, address: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_dataset(source, f"{bucket}/new", progress=False)
    used, parent = data_folder(address), data_folder(address).parent
    load_split(address, "train")
    for age, name in enumerate(("older", "oldest")):
        (parent / name).mkdir()
        (parent / name / "in-use").touch()
        os.utime(parent / name / "in-use", (1e9 - age, 1e9 - age))
        (parent / name / "train.beton").touch()
    usage = namedtuple("usage", "total used free")

    def disk_usage(path: Path) -> usage:
        return usage(0, 0, 10**6 if len(list(parent.iterdir())) < 4 else 0)

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    load_split(f"{bucket}/new", "train")
    assert {each.name for each in parent.iterdir()} == {
        used.name,
        "older",
        data_folder(f"{bucket}/new").name,
    }
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(0, 0, 0))
    with pytest.raises(UserError, match=r"has 0\.00 GB left; make room, or set DYNAT_RAY_CACHE"):
        load_split(f"{bucket}/new", "test")
    assert used.exists()
    assert not (parent / "older").exists()


def test_a_disk_that_fills_is_said_to_be_full(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", full)
        with pytest.raises(UserError, match="is full or read-only, where the data set is to be"):
            load_split(address, "train")
    load_split(address, "train")


def test_how_far_it_is_is_told(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    load_split(address, "test")
    said = capsys.readouterr().err
    assert f"fetching test.safetensors of {address}: 0.0 of 0.0 MB" in said
    assert said.rstrip().endswith("left")
