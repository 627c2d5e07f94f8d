"""What early stops are said to save."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.benchmarks import stopping, trained_run
from dynat_ray.config import RunConfig
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.settings import override
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train


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


def test_images_are_of_all_classes_though_the_source_is_sorted(
    small_config: RunConfig, tmp_path: Path
) -> None:
    labels = np.repeat(np.arange(4), 50)
    pixels = np.broadcast_to(labels[:, None, None, None], (200, 8, 8, 3)).astype(np.uint8)
    np.savez(tmp_path / "sorted.npz", image=pixels, label=labels)
    data = tmp_path / "data"
    prepare_dataset(f"npz:{tmp_path / 'sorted.npz'}", data, progress=False)
    config = override(small_config, {"data.path": str(data)})
    images, chosen = trained_run.training_images(config, 40)
    assert chosen.bincount(minlength=4).min() > 0
    assert torch.equal(images[:, 0, 0, 0].long(), chosen)
