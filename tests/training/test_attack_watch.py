"""A run whose attacks have stopped says so, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.perturb.budget import BudgetRule
from dynat_ray.perturb.pgd import PGD
from dynat_ray.settings import override
from dynat_ray.training.attack_watch import AttackWatch
from dynat_ray.training.session import LocalSession
from dynat_ray.training.state import Progress
from dynat_ray.training.telemetry import EpochRecord
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


def record(attacked: int, *, right: int = 60, changed: int | None = None) -> EpochRecord:
    """Returns a record of 100 samples, the first of which are attacked, changed, or right."""
    first = np.arange(100)
    columns = {
        "index": first,
        "label": np.zeros(100, dtype=np.int64),
        "predicted": (first >= right).astype(np.int64),
        "eps": np.where(first < attacked, 0.1, 0.0),
        "attack_steps": np.where(first < attacked, 3, 0),
        "change": np.where(first < (attacked if changed is None else changed), 0.05, 0.0),
    }
    return EpochRecord(columns, np.zeros(1), 300, 1.0, 0.0)


def words(config: RunConfig, *records: EpochRecord) -> list[str]:
    watch, progress = AttackWatch(config, classes=10), Progress()
    return [watch.look(each, progress) for each in records]


def test_it_says_once_that_the_share_has_fallen(small_config: RunConfig) -> None:
    found = words(small_config, record(13), record(13), record(0), record(0), record(13), record(0))
    assert [bool(each) for each in found] == [False, False, True, False, False, False]
    assert "0.0 % of the samples had a budget and 0.0 % were changed by an attack" in found[2]
    assert "13.0 % at most in an epoch before, at 60.0 % clean accuracy" in found[2]


def test_it_says_that_attacks_change_nothing(small_config: RunConfig) -> None:
    (found,) = words(small_config, record(100, changed=0))
    assert "100.0 % of the samples had a budget and 0.0 % were changed by an attack" in found
    assert "of threat.eps 0.1 and attack.steps 3" in found


@pytest.mark.parametrize(
    ("settings", "records"),
    [
        # Nothing is known, so nothing is attacked.
        ({}, [record(13), record(0, right=10)]),
        ({}, [record(13), record(5)]),
        # As it was from the beginning.
        ({}, [record(0), record(0)]),
        ({"threat.eps": 0.0}, [record(100), record(0)]),
        ({"attack.steps": 0}, [record(100), record(100, changed=0)]),
    ],
)
def test_it_is_silent_where_nothing_is_wrong(
    small_config: RunConfig, settings: dict[str, Any], records: list[EpochRecord]
) -> None:
    assert not any(words(override(small_config, settings), *records))


@pytest.fixture
def run(small_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(epochs: int, **settings: Any) -> list[str]:
        settings = {"train.epochs": epochs, **settings}
        train(override(small_config, settings), LocalSession(tmp_path, CPU))
        return [line for line in capsys.readouterr().out.splitlines() if "attacks" in line]

    return run


def test_a_run_says_it_and_says_it_no_more_when_resumed(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(1) == []
    ratios = BudgetRule.ratios
    monkeypatch.setattr(BudgetRule, "ratios", lambda *given: ratios(*given) * 0)
    (line,) = run(3)
    assert line.startswith("epoch 2: attacks have stopped: 0.0 % of the samples had a budget")
    assert run(4) == []


def test_a_run_whose_attack_stands_still_says_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PGD, "_moved", lambda self, running, *rest: running.current)
    method = {"method.name": "pgd_at", "attack.random_start": "none"}
    (line,) = run(2, **method)
    assert line.startswith("epoch 1: attacks have stopped: 100.0 % of the samples had a budget and")


@pytest.mark.parametrize("method", ["dynat", "trades", "fat", "iaat", "standard", "uad_at"])
def test_a_run_that_attacks_says_nothing(run: Any, method: str) -> None:
    assert run(2, **{"method.name": method}) == []
