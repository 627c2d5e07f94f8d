"""Where an evaluation runs when nobody says, and that it goes on where it was killed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.attacks.registry import get_attacks
from dynat_ray.distributed import capacity, evaluator
from dynat_ray.distributed.capacity import NodeKind
from dynat_ray.distributed.evaluator import Workers, default_workers, evaluated
from dynat_ray.errors import UserError
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.shards import FinishedShard, run_shards
from dynat_ray.perturb.threat import Threat
from tests.quick_attack import QUICK, quick_attacks
from tests.victim import EPS, Victim


@pytest.mark.parametrize(
    ("cluster", "here", "workers", "on_ray"),
    [
        (None, 0, 1, False),
        (None, 1, 1, False),
        (None, 4, 4, True),
        (0, 0, 1, False),
        # It may be another node's.
        (1, 0, 1, True),
        (8, 1, 8, True),
    ],
)
def test_default_workers(
    monkeypatch: pytest.MonkeyPatch, cluster: int | None, here: int, workers: int, on_ray: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    if cluster is not None:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
        kinds = [NodeKind(1, 8, cluster)]
        monkeypatch.setattr(capacity, "present_nodes", lambda: kinds)
        monkeypatch.setattr(capacity, "grows_unknown", lambda: False)
    assert default_workers() == Workers(workers, on_ray)


@pytest.fixture
def plan() -> Iterator[EvaluationPlan]:
    with quick_attacks():
        yield EvaluationPlan(
            samples=40,
            classes=10,
            attacks=get_attacks(["clean", QUICK]),
            threats=[Threat("Linf", eps) for eps in (EPS / 2, EPS)],
            costly_positions=np.arange(40),
            seed=3,
            batch_size=10,
            second_stage=12,
        )


def _entries(
    plan: EvaluationPlan, victim: Victim, path: Path, *, resume: bool = True
) -> list[dict[str, Any]]:
    with evaluated(
        victim.model,
        victim.images[: plan.samples],
        victim.labels[: plan.samples],
        plan,
        identity={"model": "a", **plan.settings()},
        state_path=path,
        resume=resume,
        workers=Workers(1, on_ray=False).ready(),
    ) as found:
        return [
            {**outcome.entry(), "predicted": outcome.predicted.tolist()}
            for outcomes in found.attacks.values()
            for outcome in outcomes.values()
        ]


# Four shards in the first round, and in the second two at each radius.
@pytest.mark.parametrize("dies_after", [1, 4, 6])
def test_killed_in_either_round_it_goes_on(
    plan: EvaluationPlan,
    robust: Victim,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dies_after: int,
) -> None:
    whole = _entries(plan, robust, tmp_path / "whole.jsonl")
    done = 0

    def dying(*arguments: Any, **settings: Any) -> Iterator[FinishedShard]:
        nonlocal done
        for finished in run_shards(*arguments, **settings):
            if done == dies_after:
                raise KeyboardInterrupt
            done += 1
            yield finished

    path = tmp_path / "killed.jsonl"
    monkeypatch.setattr(evaluator, "run_shards", dying)
    with pytest.raises(KeyboardInterrupt):
        _entries(plan, robust, path)
    monkeypatch.setattr(evaluator, "run_shards", run_shards)
    with pytest.raises(UserError, match=f"holds {dies_after} finished shards"):
        _entries(plan, robust, path, resume=False)
    assert _entries(plan, robust, path) == whole
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("shard") for line in lines] == [None, *range(8), None]
    assert lines[-1] == {"ended": True}


def test_another_second_stage_is_another_evaluation(
    plan: EvaluationPlan, robust: Victim, tmp_path: Path
) -> None:
    _entries(plan, robust, tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="second_stage 12, not 13"):
        _entries(replace(plan, second_stage=13), robust, tmp_path / "a.jsonl")
