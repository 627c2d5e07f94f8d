"""What the simulation of many workers takes for granted, and what it makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.benchmarks import waiting
from dynat_ray.benchmarks.trained_run import TrainedRun
from dynat_ray.errors import UserError
from dynat_ray.settings import build_config
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
from tests.small_run import SMALL

COST = waiting.Cost(fixed=0.5, per_unit=0.01, spread=0.0)


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waiting") / "run"
    config = build_config(
        [{**SMALL, "data.path": str(digits), "train.epochs": 2, "attack.steps": 10}]
    )
    open_run_folder(folder, config, resume=False)
    train(config, LocalSession(folder, torch.device("cpu")))
    return folder


def test_units_are_those_that_a_step_counts(trained: Path) -> None:
    run = TrainedRun(trained, 40, torch.device("cpu"))
    outcome = run.stepper(run.settings).step(run.batches[0], 0, 0, 40)
    record = outcome.parts[0].record
    attacked, steps = (record["eps"] > 0).numpy(), record["attack_steps"].numpy()
    most = run.settings.most_steps(10)
    passes = np.where(attacked, steps + (steps < most), 0)
    assert 0 < attacked.sum() < 40
    assert waiting.units_of(attacked, passes, sizes=0) == outcome.passes.units


def test_on_an_accelerator_batches_shrink_in_eighths_every_other_step() -> None:
    passes = np.array([3] * 5 + [1] * 4 + [0] * 7)
    # Outer pass and attack: 9 attacked are 10; then two steps with 10, one with 6 (5 filled up).
    units = 3 * 16 + 2 * 10 + 2 * (10 + 10 + 6)
    assert waiting.units_of(passes > 0, passes, sizes=8) == units


def test_samples_dealt_evenly_leave_nobody_waiting() -> None:
    attacked = np.arange(1000) % 2 == 0
    work = waiting.Work(attacked, np.where(attacked, 3, 0), before=attacked)
    waits = {
        name: waiting._waiting(COST, waiting._units(work, deal, 8, 64), spread=0)
        for name, deal in waiting.ways_to_deal(work).items()
    }
    assert waits["as drawn"] > 2
    # One sample more or less, which an eighth may hold.
    assert waits["by attacked"] == waits["by the epoch before"] < waits["as drawn"] / 2


def test_whom_the_epoch_before_says_nothing_about_waits_as_ever() -> None:
    random = np.random.default_rng(0)
    attacked, before = random.random((2, 4000)) < 0.5
    work = waiting.Work(attacked, np.where(attacked, 3, 0), before)
    deals = waiting.ways_to_deal(work)
    drawn, dealt = (
        waiting._waiting(COST, waiting._units(work, deals[name], 8, 64), spread=0)
        for name in ("as drawn", "by the epoch before")
    )
    assert dealt == pytest.approx(drawn, abs=0.6)


def test_equal_work_waits_for_noise_alone() -> None:
    units = np.full((400, 64), 100.0)
    assert waiting._waiting(COST, units, spread=0) == 0
    # The largest of 64 normal deviates is 2.4 on average.
    assert waiting._waiting(COST, units, spread=0.02) == pytest.approx(4.6, abs=0.2)


def test_a_run_is_measured(trained: Path) -> None:
    found = waiting.measure(trained, batch_size=40, rounds=1)
    assert 0 < found["attacked"] < 1
    assert list(found["workers"]) == list(waiting.WORKERS)
    assert waiting.table(found).count("\n") == 2 + len(waiting.WORKERS)


def test_a_run_without_samples_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    with pytest.raises(UserError, match="needs a run of two epochs with samples/"):
        waiting.read_work(tmp_path)
