"""Checkpoints are written while training goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.training import checkpoint_writer, trainer
from dynat_ray.training.checkpoint import read_checkpoint, write_checkpoint
from dynat_ray.training.checkpoint_writer import CheckpointWriter
from dynat_ray.training.session import LocalSession, Notice
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


def names(session: LocalSession) -> list[str]:
    return [folder.name for folder in session.checkpoints()]


def content(session: LocalSession) -> dict[str, Any]:
    state = read_checkpoint(session.checkpoints()[0])
    assert state is not None
    return state


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that writes nothing until the event is set."""
    ready = threading.Event()

    def write(folder: Path, state: dict[str, Any]) -> None:
        assert ready.wait(60)
        write_checkpoint(folder, state)

    monkeypatch.setattr(checkpoint_writer, "write_checkpoint", write)
    return ready


def test_it_writes_what_was_there_when_it_began(tmp_path: Path, disk: threading.Event) -> None:
    session = LocalSession(tmp_path, CPU)
    writer = CheckpointWriter(session)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    writer.begin({}, "epoch_0000", {"model": network.state_dict(), "steps": [1, 2], "best": None})
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(1)
    assert writer.look() == Notice.NOTHING
    assert not names(session)
    disk.set()
    writer.hand_over()
    assert names(session) == ["epoch_0000"]
    state = content(session)
    assert (state["steps"], state["best"]) == ([1, 2], None)
    assert all(torch.equal(state["model"][name], value) for name, value in before.items())
    network.load_state_dict(state["model"])
    writer.hand_over()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_one_at_a_time(tmp_path: Path, disk: threading.Event) -> None:
    session = LocalSession(tmp_path, CPU)
    writer = CheckpointWriter(session)
    disk.set()
    for number in range(3):
        writer.begin({}, f"epoch_{number:04d}", {"number": number})
        assert len(names(session)) == min(number, 2)
    writer.close()
    assert names(session) == ["epoch_0001", "epoch_0000"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_training_goes_on_meanwhile(
    small_config: RunConfig,
    tmp_path: Path,
    disk: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk only writes once the second epoch's steps have begun."""

    def learning_rate(*arguments: Any) -> float:
        if arguments[1].epochs > 1:
            disk.set()
        return 0.1

    monkeypatch.setattr(trainer, "learning_rate", learning_rate)
    session = LocalSession(tmp_path, CPU)
    train(small_config, session)
    assert names(session) == ["epoch_0001", "epoch_0000"]
    assert content(session)["epoch"] == 2


def test_a_mistake_leaves_what_was_begun_before_it(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer, "learning_rate", lambda _, how_far: 1e30 if how_far.epochs >= 1 else 0.1
    )
    session = LocalSession(tmp_path, CPU)
    with pytest.raises(UserError, match="not finite at epoch 1"):
        train(small_config, session)
    assert names(session) == ["epoch_0000"]


def test_a_full_disk_is_told_when_the_checkpoint_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: dict[str, Any], file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    writer = CheckpointWriter(LocalSession(tmp_path, CPU))
    writer.begin({}, "epoch_0000", {})
    with pytest.raises(UserError, match="No space left on device; free some space"):
        writer.hand_over()
    writer.close()
    assert not list(tmp_path.iterdir())
