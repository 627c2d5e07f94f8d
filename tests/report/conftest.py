"""Run folders as training leaves them, without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynat_ray.data import load_split
from dynat_ray.settings import build_config, dump_config
from dynat_ray.storage.metrics import write_metrics
from dynat_ray.training.telemetry import EpochRecord

MakeRun = Callable[..., Path]
ATTACKED = ("eps", "attack_steps", "kl", "fragility", "weight", "adversarial_gap")


@pytest.fixture
def make_run(tmp_path: Path, digits: Path) -> MakeRun:
    """Returns a function that makes a run folder."""

    def make(
        *,
        name: str = "run",
        data: Path = digits,
        epochs: int = 3,
        without: Sequence[str] = (),
        results: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = build_config([{"data.path": str(data), "threat.eps": 0.1, "train.epochs": 3}])
        (folder / "config.yaml").write_text(dump_config(config))
        (folder / "environment.json").write_text(
            json.dumps({"workers": "2", "device": "cpu", "loader": "memory", "command": "a <b> c"})
        )
        labels = load_split(digits, "train")[1]
        for epoch in range(epochs):
            columns = _columns(labels, epoch)
            record = EpochRecord(
                {key: value for key, value in columns.items() if key not in without},
                losses=np.array([1 / (epoch + 1)]),
                passes=10 * len(labels),
                seconds=2.0,
                loader_seconds=0.1,
            )
            record.write(folder / "samples" / f"epoch_{epoch:04d}.parquet", len(labels))
            write_metrics(folder / "metrics.jsonl", _line(epoch, record))
        if results is not None:
            (folder / "results.json").write_text(json.dumps(results))
        return folder

    return make


def entry(accuracy: float, samples: int = 360, **more: Any) -> dict[str, Any]:
    """Returns an attack's entry in `results.json`."""
    return {
        "accuracy": accuracy,
        "samples": samples,
        "interval": [accuracy - 2, accuracy + 2],
    } | more


def _columns(labels: Tensor, epoch: int) -> dict[str, np.ndarray]:
    count = len(labels)
    random = torch.Generator().manual_seed(epoch)
    gap = torch.rand(count, generator=random)
    # Every tenth sample is wrong without attack; the attack beats every fourth.
    wrong = torch.arange(count) % 10 == 0
    won = wrong | (torch.arange(count) % 4 == 0)
    columns = {
        "index": torch.arange(count),
        "label": labels,
        "predicted": torch.where(wrong, (labels + 1) % 10, labels).float(),
        "confidence_gap": gap,
        "skewness": gap,
        "eps": 0.05 + 0.1 * gap,
        "attack_steps": torch.where(won, 4.0, 10.0),
        "kl": 1 - gap,
        "fragility": 1 - gap,
        "weight": torch.ones(count),
        "clean_loss": gap,
        "adversarial_loss": gap,
        "adversarial_gap": torch.where(won, 0.4, -0.4),
    }
    return {name: value.numpy() for name, value in columns.items()}


def _line(epoch: int, record: EpochRecord) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "epochs_done": epoch + 1.0,
        "forward_units": 22.0 * (epoch + 1),
        "learning_rate": 0.1,
        "loss": record.loss,
        "train_clean_accuracy": record.clean_accuracy(),
        "train_robust_accuracy": record.robust_accuracy(),
        # Validated every second epoch only.
        "validation_clean_accuracy": 90.0 if epoch % 2 else None,
        "validation_robust_accuracy": 60.0 if epoch % 2 else None,
        "passes_per_sample": record.passes / len(record),
        "images_per_second": len(record) / record.seconds,
        "seconds": record.seconds,
        "loader_seconds": record.loader_seconds,
        "peak_memory_bytes": 2**30,
        "best": epoch == 1,
    }
