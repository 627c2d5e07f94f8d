"""What early stops are said to save."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from dynat_ray.benchmarks import stopping
from dynat_ray.config import RunConfig
from dynat_ray.training.loop import train
from dynat_ray.training.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession


def test_saved_passes_are_those_of_wrong_and_stopped_samples(
    small_config: RunConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert small_config.method.name == "dynat"
    open_run_folder(run, small_config, resume=False)
    train(small_config, LocalSession(run, torch.device("cpu")))
    found = stopping.measure(run, rounds=1, threads=1)
    assert 0 < found["passes_saved"] < 1
    assert found["ratios"]["dynat_step_by_pgd_at"]["median"] > 0
    assert found["paid"] == pytest.approx(found["time_saved"] / found["passes_saved"], abs=0.02)
    everything = dataclasses.replace(small_config.method, early_stop=False, misclassified="uniform")
    (run / "config.yaml").unlink()
    open_run_folder(run, dataclasses.replace(small_config, method=everything), resume=True)
    assert stopping.measure(run, rounds=1, threads=1)["passes_saved"] == 0
