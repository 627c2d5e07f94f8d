"""FFCV's failures become errors here, and it leaves the process as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.data import load_info
from dynat_ray.errors import UserError

pytest.importorskip("ffcv")

from dynat_ray.data import ffcv_reader
from dynat_ray.data.ffcv_reader import FfcvReader

CPU = torch.device("cpu")


@pytest.fixture
def folder(digits: Path, tmp_path: Path) -> Path:
    """Returns a copy of the prepared digits that a test may damage."""
    for path in digits.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def open_reader(folder: Path, **options: int) -> FfcvReader:
    """Opens the training split."""
    return FfcvReader(
        load_info(folder), folder / "train.beton", device=CPU, batch_size=64, **options
    )


def damage(path: Path, kind: str) -> None:
    """Damages a file."""
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        content[len(content) - 5] ^= 0xFF
        path.write_bytes(content)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "missing"])
def test_a_damaged_file_is_noticed_before_it_is_read(kind: str, folder: Path) -> None:
    damage(folder / "train.beton", kind)
    with pytest.raises(UserError, match=r"train.beton is (damaged|missing).*prepare it again"):
        open_reader(folder)


@pytest.fixture
def deadline() -> Iterator[None]:
    """Fails if threads are left over."""
    before = set(threading.enumerate())
    yield
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= before


@pytest.mark.usefixtures("deadline")
@pytest.mark.parametrize("at", [0, 2])
def test_an_exception_in_the_pipeline_is_raised(
    at: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader(folder)
    decode = ffcv_reader.epoch_class().__mro__[1].run_pipeline

    def fail(self: object, number: int, *rest: object) -> object:
        if number == at:
            raise ZeroDivisionError("from the pipeline")
        return decode(self, number, *rest)

    monkeypatch.setattr(ffcv_reader.epoch_class().__mro__[1], "run_pipeline", fail)
    seen = 0
    with pytest.raises(RuntimeError, match="FFCV cannot read .*from the pipeline"):
        for _ in reader.batches(np.arange(1000)):
            seen += 1
    assert seen == at


@pytest.mark.usefixtures("deadline")
def test_a_pipeline_that_gives_nothing_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = open_reader(folder)
    release = threading.Event()
    monkeypatch.setattr(
        ffcv_reader.epoch_class().__mro__[1], "run_pipeline", lambda *_: release.wait(30)
    )
    monkeypatch.setattr(ffcv_reader, "_PATIENCE", 0.0)
    batches = reader.batches(np.arange(64))
    monkeypatch.setattr(ffcv_reader, "_CLOSING", 0.1)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="gave no batch"):
        next(batches)
    (stuck,) = set(threading.enumerate()) - before
    release.set()
    stuck.join()


@pytest.mark.usefixtures("deadline")
def test_epochs_leave_no_threads_and_the_threads_of_pytorch_alone(folder: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        reader = open_reader(folder, threads=1)
        for _ in range(3):
            assert sum(len(batch) for batch in reader.batches(np.arange(200))) == 200
        next(reader.batches(np.arange(1438)))
        reader.close()
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_several_threads_decode_the_same(folder: Path) -> None:
    one = torch.cat(list(open_reader(folder, threads=1).batches(np.arange(300))))
    two = torch.cat(list(open_reader(folder, threads=2).batches(np.arange(300))))
    assert torch.equal(one, two)
