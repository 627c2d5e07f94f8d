"""Validation beside training: the same figures and the same best model, later."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training import epoch_validation, trainer
from dynat_ray.training.session import LocalSession, Notice, StopRequested
from dynat_ray.training.trainer import train
from dynat_ray.training.validation import ValidationAccuracy
from dynat_ray.training.validator import Validator
from tests.training.stopped_session import Stopped

CPU = torch.device("cpu")
EPOCHS = {"train.epochs": 5}
BESIDE = EPOCHS | {"eval.beside": True}
TIMES = {"seconds", "loader_seconds", "elapsed", "images_per_second", "peak_memory_bytes"}


class Slow:
    """A place that gives what it found once `patience` more epochs were begun, or it is waited for.

    Attributes:
        begun: How many were begun.
        waited: How often somebody waited for it.
        excuse: Why it gives nothing.
    """

    def __init__(self, config: RunConfig, patience: int) -> None:
        self._validator, self._patience = Validator(config, CPU), patience
        self._left: list[tuple[dict[str, Tensor], Future[ValidationAccuracy]]] = []
        self.begun, self.waited, self.excuse = 0, 0, ""

    def begin(self, weights: dict[str, Tensor]) -> Future[ValidationAccuracy]:
        self.begun += 1
        result: Future[ValidationAccuracy] = Future()
        self._left.append((weights, result))
        if len(self._left) > self._patience:
            self._give()
        return result

    def problem(self) -> str:
        self.waited += 1
        if not self.excuse and self._left:
            self._give()
        return self.excuse

    def _give(self) -> None:
        weights, result = self._left.pop(0)
        result.set_result(self._validator.validate(weights))


class Elsewhere(LocalSession):
    """One process with a place beside it.

    Args:
        folder: Of the run.
        patience: Of the place.
        dies_after: So many reports; 0: never.
    """

    def __init__(self, folder: Path, patience: int, dies_after: int = 0) -> None:
        super().__init__(folder, CPU)
        self.patience, self.left = patience, dies_after
        self.place: Slow | None = None
        self.told: list[Notice] = []

    def validating(self, config: RunConfig) -> Slow:
        self.place = self.place or Slow(config, self.patience)
        return self.place

    def report(self, metrics: Any, name: str, folder: Path | None, *, wait: bool = False) -> None:
        super().report(metrics, name, folder, wait=wait)
        self.left -= 1
        if self.left == 0:
            raise Stopped

    def notice(self) -> Notice:
        waited = self.place is not None and self.place.waited > 1
        return self.told[0] if self.told and waited else Notice.NOTHING

    def saved(self) -> None:
        self.told.pop(0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes while one waits, so that waiting is for nothing."""
    monkeypatch.setattr(epoch_validation, "wait", lambda *_, **__: None)


@pytest.fixture(scope="module")
def alike(shared_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Says whether a run is like one that is validated as it goes."""
    usual = tmp_path_factory.mktemp("usual")
    train(override(shared_config, EPOCHS), LocalSession(usual, CPU))

    def compare(folder: Path) -> None:
        lines = [
            [{key: line[key] for key in line.keys() - TIMES} for line in read_metrics(file)]
            for file in (usual / "metrics.jsonl", folder / "metrics.jsonl")
        ]
        assert lines[0] == lines[1]
        assert any(line["best"] for line in lines[0][:-1])
        for name in ("model", "model_last"):
            one, other = (load_model(each / name).state_dict() for each in (usual, folder))
            assert all(torch.equal(value, other[key]) for key, value in one.items())

    return compare


@pytest.mark.parametrize("patience", [0, 2, 9])
def test_late_results_change_nothing(
    small_config: RunConfig, tmp_path: Path, alike: Any, patience: int
) -> None:
    session = Elsewhere(tmp_path / "beside", patience)
    train(override(small_config, BESIDE), session)
    alike(tmp_path / "beside")
    # The last epoch is measured by those who trained it.
    assert session.place is not None
    assert session.place.begun == EPOCHS["train.epochs"] - 1


def test_no_more_wait_than_memory_is_meant_for(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = []
    begin = trainer.Trainer._begin_checkpoint

    def look(self: trainer.Trainer, line: dict[str, Any]) -> None:
        most.append(self.validation.waiting)
        begin(self, line)

    monkeypatch.setattr(trainer.Trainer, "_begin_checkpoint", look)
    train(override(small_config, BESIDE | {"train.epochs": 7}), Elsewhere(tmp_path, 99))
    assert most[:3] == [1, 2, 3]
    assert max(most[:-1]) == 3


@pytest.mark.parametrize("reports", [1, 3, 5])
def test_a_killed_run_measures_again_what_waited(
    small_config: RunConfig, tmp_path: Path, alike: Any, reports: int
) -> None:
    config, folder = override(small_config, BESIDE), tmp_path / "parts"
    with pytest.raises(Stopped):
        train(config, Elsewhere(folder, 9, dies_after=reports))
    assert len(read_metrics(folder / "metrics.jsonl")) < reports
    train(config, Elsewhere(folder, 1))
    alike(folder)


def test_a_run_goes_on_without_a_place(small_config: RunConfig, tmp_path: Path, alike: Any) -> None:
    with pytest.raises(Stopped):
        train(override(small_config, BESIDE), Elsewhere(tmp_path / "parts", 9, dies_after=3))
    train(override(small_config, EPOCHS), LocalSession(tmp_path / "parts", CPU))
    alike(tmp_path / "parts")


def test_a_session_without_another_place_does_it_itself(
    small_config: RunConfig, tmp_path: Path, alike: Any
) -> None:
    train(override(small_config, BESIDE), LocalSession(tmp_path / "one", CPU))
    alike(tmp_path / "one")


def test_a_signal_ends_the_wait_at_the_end(
    small_config: RunConfig, tmp_path: Path, alike: Any
) -> None:
    config, folder = override(small_config, BESIDE), tmp_path / "parts"
    session = Elsewhere(folder, 99)
    session.told = [Notice.SAVE, Notice.STOP]
    with pytest.raises(StopRequested):
        train(config, session)
    assert not (folder / "model").exists()
    train(config, Elsewhere(folder, 99))
    alike(folder)


def test_a_place_that_never_comes_is_said(small_config: RunConfig, tmp_path: Path) -> None:
    config = override(small_config, BESIDE)
    session = Elsewhere(tmp_path, 99)
    session.validating(config).excuse = "no machine is free"
    with pytest.raises(UserError, match="no machine is free"):
        train(config, session)
    assert session.checkpoints(), "what was trained is kept"


def test_logits_that_are_not_finite_are_said(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ValidationAccuracy(clean=1.0, robust=1.0, images=9, undefined=4)
    monkeypatch.setattr(Validator, "validate", lambda *_: broken)
    words = "logits of 4 of 9 validation images are not finite after epoch 0"
    with pytest.raises(UserError, match=words):
        train(override(small_config, BESIDE), Elsewhere(tmp_path, 1))


def test_it_needs_images_that_are_held_out(small_config: RunConfig) -> None:
    with pytest.raises(UserError, match=r"eval\.beside is true, but data\.val_fraction is 0"):
        override(small_config, {"eval.beside": True, "data.val_fraction": 0})
