"""A run's own numbers as Ray's metrics."""

from __future__ import annotations

from typing import Any

import pytest

from dynat_ray.distributed import run_gauges
from dynat_ray.distributed.run_gauges import GAUGES, RunGauges


def test_each_number_of_an_epoch_is_told_with_the_runs_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[tuple[str, str], float] = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert (bool(description), tag_keys) == (True, ("run",))
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            told[self.name, tags["run"]] = value

    monkeypatch.setattr(run_gauges, "Gauge", Gauge)
    line: dict[str, Any] = dict.fromkeys(GAUGES, 1.5) | {"epoch": 3, "mean_eps": None}
    RunGauges("mine").set(line)
    assert told == {
        (f"dynat_ray_{name}", "mine"): 3.0 if name == "epoch" else 1.5
        for name in GAUGES
        if name != "mean_eps"
    }
    # Workers that have nothing to tell, as of a checkpoint inside an epoch.
    RunGauges("other").set({})
    assert not [name for name, run in told if run == "other"]
