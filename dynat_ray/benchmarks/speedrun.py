"""How long training takes until it equals plain PGD-AT: the recipe `cifar10-speedrun`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dynat_ray.data import load_test_images
from dynat_ray.distributed.progress import ProgressPrinter
from dynat_ray.errors import UserError
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.settings import Settings, build_config, read_recipe
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

# What it is held against: 60 epochs of PGD-10, the rate dropped twice.
_REFERENCE: Settings = {
    "method.name": "pgd_at",
    "attack.first_steps": 0,
    "optim.lr": 0.1,
    "optim.schedule": "piecewise",
    "optim.milestones": [0.5, 0.75],
    "train.epochs": 60,
    "train.batch_size": 128,
    "train.ema_decay": 0.0,
}
_ATTACKS = ("clean", "pgd-20", "autoattack")
_NO_ATTACKS = ("seconds", "seconds_per_epoch", "samples")


def measure(
    path: Path,
    *,
    device: str = "cpu",
    samples: int = 1000,
    settings: Settings | None = None,
    attacks: Sequence[str] = _ATTACKS,
    reference: bool = True,
) -> dict[str, Any]:
    """Trains the recipe, and plain PGD-AT on the same network, in this process without Ray.

    Args:
        path: Prepared data set.
        device: Where.
        samples: Class-balanced number of test images that are attacked.
        settings: On top of both configurations.
        attacks: Names, the strongest last.
        reference: Whether plain PGD-AT is trained, too.

    Returns:
        For `speedrun` and `reference`: `seconds` of training (validation left out),
        `seconds_per_epoch`, and accuracies in percent of the best model by attack.
    """
    runs = {"speedrun": {}, **({"reference": _REFERENCE} if reference else {})}
    return {
        name: _run(path, device, samples, {**own, **(settings or {})}, attacks)
        for name, own in runs.items()
    }


def stored_reference(file: Path) -> dict[str, Any]:
    """Returns plain PGD-AT's entry in the JSON file of an earlier `speedrun` or `win`.

    Raises:
        UserError: The file holds neither.
    """
    found = read_json(file) or {}
    with suppress(KeyError, TypeError):
        reference: dict[str, Any] = found["speedrun"]["reference"]
        return reference
    with suppress(KeyError, TypeError):
        run = found["win"]["results"]["pgd_at"]
        accuracies = {name: entry["accuracy"] for name, entry in run["last"].items()}
        samples = min(entry["samples"] for entry in run["last"].values())
        return {"seconds": run["seconds"], "samples": samples, **accuracies}
    raise UserError(f"--earlier {file} has no PGD-AT of a benchmark speedrun or win")


def table(found: Mapping[str, Any]) -> str:
    """Returns a line for each run: seconds, and accuracies by attack."""
    lines = []
    for name, entry in found.items():
        attacks = [key for key in entry if key not in _NO_ATTACKS]
        accuracies = ", ".join(f"{attack} {entry[attack]:.1f} %" for attack in attacks)
        lines.append(
            f"{name:<10} {entry['seconds']:8.1f} s of training, {accuracies} "
            f"(the last on {entry['samples']} images)\n"
        )
    return "".join(lines)


def _run(
    path: Path,
    device: str,
    samples: int,
    own: Settings,
    attacks: Sequence[str],
) -> dict[str, Any]:
    fixed = {"data.path": str(path), "data.loader": "memory", "cluster.workers": 1}
    config = build_config([read_recipe("cifar10-speedrun"), fixed, own])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        open_run_folder(folder, config, resume=False)
        with ProgressPrinter(folder, config):
            train(config, LocalSession(folder, torch.device(device)))
        lines = read_metrics(folder / "metrics.jsonl")
        model = load_model(folder).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = load_test_images(path, samples)
    outcomes = evaluate_attacks(
        model,
        images,
        labels,
        attacks,
        Threat(config.threat.norm, config.threat.eps),
        batch_size=config.eval.batch_size,
    )
    seconds = sum(line["seconds"] for line in lines)
    return {
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(seconds / len(lines), 2),
        "samples": len(labels),
        **{name: round(found.accuracy, 2) for name, found in outcomes.items()},
    }
