"""Notices from outside: a checkpoint first, then on, or the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training import checkpoint
from dynat_ray.training.checkpoint import CheckpointClock
from dynat_ray.training.session import LocalSession, Notice, StopRequested
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


class _Told(LocalSession):
    """Is told something at the second look of a run, until a checkpoint is kept."""

    def __init__(self, folder: Path, notice: Notice) -> None:
        super().__init__(folder, CPU)
        self.told, self.looks, self.kept = notice, 0, 0

    def notice(self) -> Notice:
        self.looks += 1
        return self.told if self.looks >= 2 else Notice.NOTHING

    def saved(self) -> None:
        self.told = Notice.NOTHING
        self.kept += 1


@pytest.fixture
def config(small_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 2)
    # Not more often on a busy machine, where a step may take seconds.
    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN_LOOKS", 1e9)
    return override(small_config, {"train.batch_size": 16})


def weights(folder: Path) -> dict[str, Any]:
    return dict(load_model(folder / "model_last").state_dict())


def test_told_to_end_it_saves_and_goes_on_exactly_later(config: RunConfig, tmp_path: Path) -> None:
    train(config, LocalSession(tmp_path / "whole", CPU))
    session = _Told(tmp_path / "parts", Notice.STOP)
    with pytest.raises(StopRequested):
        train(config, session)
    assert session.kept == 1
    assert [folder.name for folder in session.checkpoints()] == ["epoch_0000_step_0000004"]
    assert not (tmp_path / "parts" / "model_last").exists()
    train(config, LocalSession(tmp_path / "parts", CPU))
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert [line["epoch"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [0, 1]


def test_told_of_a_machine_that_goes_it_saves_once_and_goes_on(
    config: RunConfig, tmp_path: Path
) -> None:
    session = _Told(tmp_path, Notice.SAVE)
    train(config, session)
    assert session.kept == 1
    assert (tmp_path / "model_last").exists()


def test_looks_are_rarer_than_steps_unless_steps_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])

    def looks_in_100_steps(seconds: float) -> int:
        looks = []
        clock = CheckpointClock(0, CPU)

        def told() -> Notice:
            looks.append(1)
            return Notice.NOTHING

        for _ in range(100):
            now[0] += seconds
            assert clock.agree(told, busy=False)[0] == Notice.NOTHING
        return len(looks)

    assert looks_in_100_steps(0.001) == 5
    assert looks_in_100_steps(10.0) == 96
