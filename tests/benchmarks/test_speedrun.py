"""The speed run trains and evaluates what it says."""

from __future__ import annotations

from pathlib import Path

from dynat_ray.benchmarks import speedrun

SMALL = {
    "data.limit": 100,
    "model.kwargs": {"base_width": 8},
    "attack.steps": 2,
    # Few images stand, so that AutoAttack ends soon.
    "threat.eps": 0.5,
    "attack.first_steps": 0,
    "train.epochs": 2,
    "train.batch_size": 50,
    "train.compile": False,
    "eval.batch_size": 20,
}


def test_both_runs_are_measured(digits: Path) -> None:
    found = speedrun.measure(digits, samples=10, settings=SMALL)
    assert list(found) == ["speedrun", "reference"]
    for entry in found.values():
        assert entry["samples"] == 10
        assert entry["seconds"] > 0
        assert entry["autoattack"] <= entry["pgd-20"] <= entry["clean"] <= 100
