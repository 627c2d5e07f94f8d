"""Images that are fetched one by one from a store while they are read."""

from __future__ import annotations

import os
import shutil
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from dynat_ray.data import ExtraImages, load_info
from dynat_ray.data.batches_ahead import runs_of
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.store_copy import data_folder, require_here
from tests.data.conftest import WriteFolder
from tests.data.loading import compile_nothing, make, store_as_jpeg
from tests.data.stores import watched
from tests.data.streamed.streaming import (
    IMAGES,
    SIZE,
    Batches,
    assert_same,
    images_asked_for,
    made_source,
    new_process,
    read,
    streamed,
)

pytestmark = pytest.mark.skipif(bool(ffcv_problem()), reason="no FFCV")

DISK = namedtuple("DISK", "total used free")


@pytest.fixture
def address(prepared: tuple[str, Path]) -> str:
    """The set itself, of which nothing is changed here."""
    return prepared[0]


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"balance": True}, {"world_size": 3}])
def test_batches_are_those_of_a_folder(options: dict[str, Any], address: str, local: Path) -> None:
    expected, loader = make(local, "memory", **options), streamed(address, **options)
    assert loader.kind == "ffcv"
    for start in (0, 2, 0):
        assert_same(read(loader, 0, 5, start=start), read(expected, 0, 5, start=start))
    loader.close()


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 9},
        {"image_size": 9, "resized_crop": True},
    ],
)
def test_images_of_several_sizes_are_those_of_a_folder(
    options: dict[str, Any],
    write_folder: WriteFolder,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_as_jpeg(monkeypatch, 12)
    folder = write_folder("large", train=12, size=(20, 17))
    for number, size in enumerate(((9, 14), (31, 8))):
        other = write_folder(f"other-{number}", train=7, size=size)
        for file in (other / "train" / "cat").iterdir():
            shutil.copy(file, folder / "train" / "dog" / f"{number}-{file.name}")
    prepare_dataset(f"folder:{folder}", f"{bucket}/set", progress=False)
    info = prepare_dataset(f"folder:{folder}", tmp_path / "local", progress=False)
    assert info.storage == "jpeg"
    assert info.size is None
    loader = streamed(f"{bucket}/set", **options)
    expected = make(tmp_path / "local", "ffcv", **options)
    for start in (0, 1):
        assert_same(read(loader, 0, 1, start=start), read(expected, 0, 1, start=start))
    loader.close()


def test_extra_images_are_fetched_as_well(
    address: str,
    local: Path,
    bucket: str,
    tmp_path: Path,
    server: ThreadedMotoServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_nothing(monkeypatch)
    prepare_dataset(made_source(tmp_path, 1), f"{bucket}/extra", progress=False)
    loader = streamed(address, extra=ExtraImages(f"{bucket}/extra", 0.5))
    with watched(server) as made:
        batches = read(loader, 0)
    loader.close()
    assert {each.split("/")[2] for each in made if "/train-" in each} == {"set", "extra"}
    assert_same(batches, read(make(local, "memory", extra=ExtraImages(f"{bucket}/extra", 0.5)), 0))


def test_each_image_is_asked_for_once_and_then_kept(
    address: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    loader = streamed(address)
    with watched(server) as made:
        first = read(loader, 0)
    assert images_asked_for(made) == IMAGES
    with watched(server) as made:
        read(loader, 1, 2)
        loader.close()
        # Another process, later.
        new_process(monkeypatch)
        again = streamed(address)
        assert_same(read(again, 0), first)
        again.close()
    assert {each.rpartition("/")[2] for each in made} == {"dataset.json"}


def test_neighbours_share_a_request(
    address: str, local: Path, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    monkeypatch.setattr("dynat_ray.data.batches_ahead._LARGEST_GAP", SIZE)
    loader = streamed(address, batch_size=IMAGES)
    with watched(server) as made:
        batches = read(loader, 0)
    loader.close()
    # One for each part that has images.
    assert images_asked_for(made) == IMAGES // 8
    assert_same(batches, read(make(local, "memory", batch_size=IMAGES), 0))
    places = np.arange(5)
    starts, lengths = np.array([50, 0, 11, 70, 20]), np.array([20, 10, 9, 10, 5])
    monkeypatch.setattr("dynat_ray.data.batches_ahead._LARGEST_GAP", 1)
    assert runs_of(places, starts, lengths) == [[1, 2, 4], [0, 3]]
    monkeypatch.setattr("dynat_ray.data.batches_ahead._LARGEST_RUN", 20)
    assert runs_of(places, starts, lengths) == [[1, 2], [4], [0], [3]]


def test_what_is_fetched_already_is_not_fetched_again(
    address: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    folder, info = data_folder(address), load_info(address)
    require_here(info, folder / "train.beton", {1, 2, 3})
    loader = streamed(address)
    with watched(server) as made:
        read(loader, 0)
    loader.close()
    assert images_asked_for(made) == IMAGES - 3 * 8


def test_no_more_is_kept_than_the_disk_has_room_for(
    address: str,
    local: Path,
    server: ThreadedMotoServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    compile_nothing(monkeypatch)
    total, most, left = 100_000, 20, [10_000 + 20 * SIZE]

    def disk_usage(path: Path) -> DISK:
        return DISK(total, 0, left[0])

    def write(descriptor: int, content: bytes, position: int) -> int:
        left[0] -= len(content)
        return pwrite(descriptor, content, position)

    pwrite = os.pwrite
    # Several at once would each find the room for one more.
    monkeypatch.setattr("dynat_ray.data.streamed_reader._CONNECTIONS", 1)
    loader, expected = streamed(address), make(local, "memory")
    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    monkeypatch.setattr("os.pwrite", write)
    assert_same(read(loader, 0), read(expected, 0))
    assert f"keeping {most} of {IMAGES} images" in capfd.readouterr().err
    for _ in range(2):
        with watched(server) as made:
            assert_same(read(loader, 1), read(expected, 1))
        assert images_asked_for(made) == IMAGES - most
    loader.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fails", ["os.pwrite", "os.posix_fallocate"])
def test_a_full_disk_ends_nothing(
    fails: str,
    address: str,
    local: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    compile_nothing(monkeypatch)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    data_folder(address)
    require_here(load_info(address), data_folder(address) / "train.beton", {0, 6, 7})
    monkeypatch.setattr(fails, full)
    loader = streamed(address)
    assert_same(read(loader, 0, 1), read(make(local, "memory"), 0, 1))
    loader.close()
    assert capfd.readouterr().err.count("No space left on device") == 1


def test_a_kept_image_that_was_damaged_is_fetched_again(
    address: str, local: Path, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    loader, expected = streamed(address), make(local, "memory")
    read(loader, 0)
    file = data_folder(address) / "train.beton"
    position = int(loader._readers[0]._images.starts[40])  # type: ignore[attr-defined]
    with file.open("r+b") as opened:
        opened.seek(position + 100)
        opened.write(b"\0\1\2")
    for asked_for in (1, 0):
        with watched(server) as made:
            assert_same(read(loader, 1), read(expected, 1))
        assert images_asked_for(made) == asked_for
    loader.close()


def test_two_workers_of_a_machine_share_what_they_fetch(
    address: str, local: Path, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    workers = [streamed(address, world_size=2, rank=rank) for rank in range(2)]
    found: dict[int, Batches] = {}

    def work(rank: int) -> None:
        found[rank] = read(workers[rank], 0)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with watched(server) as made:
        for rank, worker in enumerate(workers):
            assert_same(found[rank], read(make(local, "memory", world_size=2, rank=rank), 0))
            # In other epochs each reads what was the other's.
            read(worker, 1, 2)
            worker.close()
    assert images_asked_for(made) == 0
