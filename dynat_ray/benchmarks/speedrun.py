"""How long training takes until it equals plain PGD-AT: the recipe `cifar10-speedrun`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from dynat_ray.data import load_test_images
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.settings import build_config, read_recipe
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

# What it is held against: 60 epochs of PGD-10, the rate dropped twice.
_REFERENCE: dict[str, Any] = {
    "method.name": "pgd_at",
    "attack.first_steps": 0,
    "optim.lr": 0.1,
    "optim.schedule": "piecewise",
    "optim.milestones": [0.5, 0.75],
    "train.epochs": 60,
    "train.batch_size": 128,
    "train.ema_decay": 0.0,
}
_ATTACKS = ["clean", "pgd-20", "autoattack"]


def measure(
    path: Path,
    *,
    device: str = "cpu",
    samples: int = 1000,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains the recipe, and plain PGD-AT on the same network, in this process without Ray.

    Args:
        path: Prepared data set.
        device: Where.
        samples: Class-balanced number of test images that are attacked.
        settings: On top of both configurations.

    Returns:
        For `speedrun` and `reference`: `seconds` of training (validation left out),
        `seconds_per_epoch`, and accuracies in percent of the best model by attack.
    """
    runs = {"speedrun": {}, "reference": _REFERENCE}
    return {name: _run(path, device, samples, own, settings or {}) for name, own in runs.items()}


def _run(
    path: Path,
    device: str,
    samples: int,
    own: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Any]:
    fixed = {"data.path": str(path), "data.loader": "memory", "cluster.workers": 1}
    layers = [read_recipe("cifar10-speedrun"), fixed, own, settings]
    config = build_config(layers)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        open_run_folder(folder, config, resume=False)
        train(config, LocalSession(folder, torch.device(device)))
        lines = read_metrics(folder / "metrics.jsonl")
        model = load_model(folder).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = load_test_images(path, samples)
    outcomes = evaluate_attacks(
        model,
        images,
        labels,
        _ATTACKS,
        Threat(config.threat.norm, config.threat.eps),
        batch_size=config.eval.batch_size,
    )
    seconds = sum(line["seconds"] for line in lines)
    return {
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(seconds / len(lines), 2),
        "samples": len(labels),
        **{name: round(100 * float(found.correct.mean()), 2) for name, found in outcomes.items()},
    }
