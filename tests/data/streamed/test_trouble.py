"""What goes wrong while images are fetched one by one, and what is said of it."""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from moto.server import ThreadedMotoServer

from dynat_ray.data import image_fetching
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder
from tests.data.loading import compile_nothing, make, store_as_jpeg
from tests.data.stores import Objects, watched
from tests.data.streamed.streaming import (
    PART,
    assert_same,
    images_asked_for,
    images_of,
    made_source,
    new_process,
    read,
    streamed,
)

pytestmark = pytest.mark.skipif(bool(ffcv_problem()), reason="no FFCV")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_nothing(monkeypatch)


def test_a_set_that_is_prepared_anew_meanwhile_is_noticed(
    address: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynat_ray.data.batches_ahead._BYTES_AHEAD", 1)
    loader, expected = streamed(address, batch_size=4), dict(enumerate(images_of(local)))
    epoch = loader.iterate(0)
    next(epoch)
    prepare_dataset(made_source(tmp_path, 1), address, progress=False)
    with pytest.raises(UserError, match=r"/set was prepared anew or removed since this command"):
        for batch in epoch:
            # No image of the new one ever is among those of the old one.
            for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
                assert torch.equal(image, expected[index])
    loader.close()
    new_process(monkeypatch)
    # Nothing of the one before is in the way of the new one.
    prepare_dataset(made_source(tmp_path, 1), tmp_path / "new", progress=False)
    loader = streamed(address)
    assert_same(read(loader, 0), read(make(tmp_path / "new", "ffcv"), 0))
    loader.close()


def spoil(objects: Objects, how: str) -> None:
    content = objects.read(PART)
    if how == "missing":
        objects.delete(PART)
    elif how == "shorter":
        objects.write(PART, content[: len(content) // 2])
    else:
        objects.write(PART, content[::-1])


@pytest.mark.parametrize("how", ["missing", "shorter", "changed"])
@pytest.mark.parametrize("when", ["before", "between epochs", "in a later run"])
def test_a_part_that_is_not_what_it_was_is_noticed(
    how: str, when: str, address: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(s3, address)
    monkeypatch.setattr("dynat_ray.data.kept_images.has_room_to_spare", lambda *_: False)
    if when == "before":
        spoil(objects, how)
    loader = streamed(address)
    if when != "before":
        read(loader, 0)
        spoil(objects, how)
    if when == "in a later run":
        loader.close()
        loader = streamed(address)
    if (how, when) == ("changed", "before"):
        # The one thing that can't be known: no part is read as a whole.
        read(loader, 0)
    else:
        with pytest.raises(UserError, match=rf"{PART} is .*prepare the data"):
            read(loader, 1)
    loader.close()


@pytest.mark.parametrize("how", ["missing", "shorter", "changed"])
def test_a_part_that_changes_while_it_is_read_is_noticed(
    how: str, address: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "changed":
        # Of images that were not read before, the tag says it when the part is opened again.
        monkeypatch.setattr(image_fetching, "_SECONDS_OPEN", 0.0)
    loader = streamed(address, batch_size=2)
    images = loader._readers[0]._images  # type: ignore[attr-defined]
    for part in images._parts:
        images._open(part, threading.Event())
    spoil(Objects(s3, address), how)
    with pytest.raises(UserError, match=rf"{PART} is (missing, or shorter|cut|not what)"):
        read(loader, 0)
    loader.close()


def test_a_jpeg_that_is_none_is_refused(
    write_folder: WriteFolder,
    bucket: str,
    s3: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store_as_jpeg(monkeypatch, 12)
    prepare_dataset(f"folder:{write_folder(train=12)}", f"{bucket}/set", progress=False)
    objects = Objects(s3, f"{bucket}/set")
    (name,) = [each for each in objects.names() if each.startswith("train-00001")]
    objects.write(name, bytes(len(objects.read(name))))
    loader = streamed(f"{bucket}/set", image_size=8)
    with pytest.raises(UserError, match=r"is damaged or replaced: image \d+ is not what it must"):
        read(loader, 0)
    loader.close()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_store_that_is_away_is_asked_again(
    comes_back: bool,
    address: str,
    local: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    loader, expected, asked = streamed(address), make(local, "memory"), count()
    answer = image_fetching._read_at

    def read_at(*arguments: Any) -> bytes:
        # More than are made at once, so that some are made again in vain.
        if next(asked) < 30 or not comes_back:
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7")
        return answer(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(image_fetching, "_read_at", read_at)
        patch.setattr("dynat_ray.object_store._PAUSES", (0.0,) * (40 if comes_back else 2))
        if comes_back:
            assert_same(read(loader, 0), read(expected, 0))
        else:
            with pytest.raises(UserError, match=r"not answer as it should: .* with --resume"):
                read(loader, 0)
    assert capfd.readouterr().err.count("waiting:") == 1
    # It goes on where the store is back.
    assert_same(read(loader, 1), read(expected, 1))
    loader.close()


def test_keys_that_are_refused_end_the_epoch_at_once(
    address: str, server: ThreadedMotoServer, capfd: pytest.CaptureFixture[str]
) -> None:
    loader = streamed(address)
    expired = ("403 Forbidden", "ExpiredToken")
    with watched(server, lambda _: expired), pytest.raises(UserError, match="refuses the keys of"):
        read(loader, 0)
    loader.close()
    assert "waiting:" not in capfd.readouterr().err


def test_it_ends_while_the_store_gives_nothing(address: str, server: ThreadedMotoServer) -> None:
    asked_for, goes_on = threading.Event(), threading.Event()

    def hang(asked: str) -> None:
        if "/train-" in asked:
            asked_for.set()
            goes_on.wait(60)

    def wait() -> None:
        with suppress(ValueError):  # It got fewer batches than an epoch has.
            read(loader, 0)

    loader = streamed(address)
    with watched(server, hang):
        waiting = threading.Thread(target=wait)
        waiting.start()
        asked_for.wait()
        connections = loader._readers[0]._connections._threads  # type: ignore[attr-defined]
        loader.close()
        waiting.join(20)
        assert not waiting.is_alive()
        goes_on.set()
        for thread in connections:
            thread.join(20)


def test_closed_while_an_epoch_begins_it_ends(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = streamed(address)
    (reader,) = loader._readers
    begin = reader._begin  # type: ignore[attr-defined]

    def begin_and_close(indices: Any) -> Any:
        running = begin(indices)
        # As another thread may, before anybody knows of what has begun.
        loader.close()
        return running

    monkeypatch.setattr(reader, "_begin", begin_and_close)
    with pytest.raises(ValueError, match="zip"):  # It got fewer batches than an epoch has.
        read(loader, 0)


def test_no_more_is_fetched_ahead_than_was_said(
    address: str, server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynat_ray.data.batches_ahead._BYTES_AHEAD", 1)
    loader = streamed(address, batch_size=4)
    with watched(server) as made:
        epoch = loader.iterate(0)
        next(epoch)
        threading.Event().wait(0.5)
        # Two ahead of the one that comes next, one that is decoded, three decoded, one in use.
        assert 4 <= images_asked_for(made) <= 4 * (2 + 1 + 1 + 3 + 1)
        epoch.close()  # type: ignore[attr-defined]
    loader.close()
