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
    units = waiting.learning_units(attacked, sizes=0) + waiting.attack_units(passes, sizes=0)
    assert units == outcome.passes.units


def test_on_an_accelerator_batches_shrink_in_eighths_every_other_step() -> None:
    passes = np.array([3] * 5 + [1] * 4 + [0] * 7)
    # 9 attacked are 10 of 16; then two steps with 10, one with 6 (5 filled up).
    assert waiting.learning_units(passes > 0, sizes=8) == 4 * 16 + 3 * 10
    assert waiting.attack_units(passes, sizes=8) == 2 * (10 + 10 + 6)


def test_attacks_dealt_evenly_leave_what_is_learnt_to_wait_for() -> None:
    attacked = np.arange(1000) % 2 == 0
    work = waiting.Work(attacked, np.where(attacked, 10, 0))
    own, balanced, moved = waiting.units_of_steps(work, 8, 64)
    assert own.shape == balanced.shape
    waits, waits_less = (waiting._waiting(COST, units, spread=0) for units in (own, balanced))
    assert waits > 5
    # A learnt sample costs a tenth of an attacked one; an eighth may hold one more or less.
    assert 0 < waits_less < waits / 3
    # Of 32 samples: a worker has 1.6 too many on average, less what an even deal leaves.
    assert moved == pytest.approx(4.5, abs=1)


def test_where_all_are_attacked_nothing_moves() -> None:
    work = waiting.Work(np.full(50, True), np.full(50, 3))
    own, balanced, moved = waiting.units_of_steps(work, 8, 64)
    assert moved == 0
    assert (own == balanced).all()


def test_equal_work_waits_for_noise_alone() -> None:
    units = np.full((400, 64), 100.0)
    assert waiting._waiting(COST, units, spread=0) == 0
    # The largest of 64 normal deviates is 2.4 on average.
    assert waiting._waiting(COST, units, spread=0.02) == pytest.approx(4.6, abs=0.2)


def test_a_run_is_measured(trained: Path) -> None:
    found = waiting.measure(trained, batch_size=40, rounds=1)
    assert 0 < found["attacked"] < 1
    assert list(found["workers"]) == list(waiting.WORKERS)
    lines = waiting.table(found).splitlines()
    assert len(lines) == 4 + len(waiting.WORKERS)
    by_time, by_units = found["measured"].values()
    assert all(0 <= wait < 100 for wait in by_time.values())
    assert by_units["pgd_at"] == 0
    assert by_units["dynat"] < by_units["dynat, not balanced"]
    assert lines[-1].startswith("| 2, forward units | 0.0 % |")


def test_a_run_without_samples_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    with pytest.raises(UserError, match="needs a run with samples/"):
        waiting.read_work(tmp_path)
