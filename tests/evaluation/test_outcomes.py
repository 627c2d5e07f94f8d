from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.attacks.registry import get_attack
from dynat_ray.evaluation.outcomes import collect
from dynat_ray.evaluation.results import results_of
from dynat_ray.evaluation.shard_outcome import ShardOutcome
from dynat_ray.evaluation.shards import FinishedShard, Shard
from dynat_ray.perturb.threat import Threat


def _finished(eps: float, *parts: list[tuple[int, int]]) -> list[FinishedShard]:
    """Each part is a shard; each pair a position and the stage that fooled it."""
    finished = []
    for number, part in enumerate(parts):
        positions, fooled_by = (
            np.array(values, dtype=np.int64) for values in zip(*part, strict=True)
        )
        outcome = ShardOutcome(positions * 10, fooled_by)
        threat = Threat("Linf", eps)
        shard = Shard(number, (threat,), positions, ("autoattack",))
        finished.append((shard, {threat: {"autoattack": outcome}}))
    return finished


def test_numbers_of_an_outcome() -> None:
    finished = _finished(0.1, [(3, -1), (0, 1)], [(1, -2), (2, 3)], [(4, -1)])
    outcome = collect(finished, [get_attack("autoattack")], classes=10)[Threat("Linf", 0.1)][
        "autoattack"
    ]
    assert outcome.positions.tolist() == [0, 1, 2, 3, 4]
    assert outcome.predicted.tolist() == [0, 10, 20, 30, 40]
    assert outcome.correct.tolist() == [False, False, False, True, True]
    entry = outcome.entry()
    assert entry["accuracy"] == 40
    assert entry["samples"] == 5
    assert entry["interval"] == pytest.approx([11.762, 76.928], abs=1e-3)
    assert entry["after"] == {"apgd-ce": 80, "apgd-t": 60, "fab-t": 60, "square": 40}
    assert "note" not in entry


def test_order_of_shards_does_not_matter() -> None:
    finished = _finished(0.1, [(3, -1), (0, 1)], [(1, -2), (2, 3)])
    attacks = [get_attack("autoattack")]
    one = collect(finished, attacks, 10)[Threat("Linf", 0.1)]["autoattack"]
    other = collect(finished[::-1], attacks, 10)[Threat("Linf", 0.1)]["autoattack"]
    assert one.fooled_by.tolist() == other.fooled_by.tolist()


def test_a_sample_that_comes_twice_is_noticed() -> None:
    with pytest.raises(AssertionError, match="counted twice"):
        collect(_finished(0.1, [(0, -1)], [(0, -1)]), [get_attack("autoattack")], 10)


def test_one_eps_gives_results_and_several_a_curve() -> None:
    attacks = [get_attack("autoattack")]
    one = collect(_finished(0.1, [(0, -1)]), attacks, 10)
    assert results_of(one)["results"]["autoattack"]["accuracy"] == 100
    several = collect(_finished(0.2, [(0, 0)]) + _finished(0.1, [(0, -1)]), attacks, 3)
    curve = results_of(several)["curve"]
    assert [point["eps"] for point in curve] == [0.1, 0.2]
    assert [point["results"]["autoattack"]["accuracy"] for point in curve] == [100, 0]
    assert curve[1]["results"]["autoattack"]["after"]["apgd-ce"] == 0
    assert "targeted margin" in curve[0]["results"]["autoattack"]["note"]


def test_a_stage_is_not_credited_with_what_fell_at_a_smaller_eps() -> None:
    small = _finished(0.1, [(0, 3), (1, -1), (2, -1), (3, -2)])
    large = _finished(0.2, [(0, 3), (1, 1), (2, -1), (3, -2)])
    found = collect(small + large, [get_attack("autoattack")], 10)
    outcome = found[Threat("Linf", 0.2)]["autoattack"]
    assert outcome.fallen_before is not None
    assert outcome.fallen_before.tolist() == [True, False, False, False]
    assert outcome.after() == {"apgd-ce": 50, "apgd-t": 25, "fab-t": 25, "square": 25}
