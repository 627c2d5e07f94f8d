"""Whether our loop teaches as much as another in equally many steps."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynat_ray.acceleration.modes import frozen
from dynat_ray.benchmarks.loops import LOOPS, make_step
from dynat_ray.benchmarks.our_loop import classifier, sgd
from dynat_ray.benchmarks.reference_loops import AttackSettings
from dynat_ray.benchmarks.turns import Progress
from dynat_ray.data import load_split, load_test_images
from dynat_ray.models import Classifier
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.threat import Threat

# Student's t for the 95 % interval of a mean of so many paired differences.
_STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def compare_accuracy(
    path: Path,
    *,
    steps: int = 300,
    seeds: int = 3,
    samples: int = 1000,
    device: str = "cpu",
    compiled: bool = False,
) -> dict[str, Any]:
    """Trains ours and the robust_overfitting loop for equally many steps; compares PGD-20.

    Both start from the same weights and see the same batches, once for each seed. The network is
    `preact_resnet18` of width 16, so that a CPU can do it. The learning rate falls linearly to 0,
    as in any real run: at a constant high one the weights run away from the batch-norm
    statistics, which the other loop moves seven times a step and ours once.

    Args:
        path: Prepared data set; its training images are learnt, its test images attacked.
        steps: Optimiser steps.
        seeds: How many pairs, 2 to 5.
        samples: Class-balanced number of test images.
        device: Where.
        compiled: `torch.compile` ours.

    Returns:
        `pgd_20_accuracy` in percent by loop and seed, and `difference`: by loop of ours, the mean
        of the paired differences (ours minus theirs) with its 95 % interval.
    """
    images, labels = (each.to(device) for each in load_split(path, "train"))
    test_images, test_labels = (each.to(device) for each in load_test_images(path, samples))
    attack = AttackSettings(steps=5, step_size=4 / 255)
    found: dict[str, list[float]] = {name: [] for name in LOOPS[:3]}
    progress = Progress("accuracy", seeds * len(found))
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randint(len(labels), (steps, 64), generator=generator)
        for name, accuracies in found.items():
            torch.manual_seed(seed)
            shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
            model = classifier(base_width=16, seed=seed, shape=shape).to(device)
            optimizer = sgd(model)
            step = make_step(name, model, optimizer, attack, compiled=compiled)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
            for rows in order.to(device):
                step(images[rows].float() / 255, labels[rows])
                schedule.step()
            accuracies.append(_robust_accuracy(model, test_images, test_labels))
            progress.done(f"seed {seed + 1} of {seeds}  {name:<20} {accuracies[-1]:5.1f} %")
    theirs = found["robust_overfitting"]
    return {
        "data": path.name,
        "steps": steps,
        "pgd_20_accuracy": found,
        "difference": {name: _paired(found[name], theirs) for name in ("ours", "ours_float32")},
    }


def _paired(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.mean(differences)
    half = _STUDENT_95[len(ours)] * statistics.stdev(differences) / math.sqrt(len(ours))
    return {"mean": round(mean, 2), "interval": [round(mean - half, 2), round(mean + half, 2)]}


def _robust_accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    model = model.float()
    attack = PGD(threat=Threat("Linf", 8 / 255), steps=20, step_size=2 / 255)
    right = 0
    for part, truth in zip(images.split(250), labels.split(250), strict=True):
        found = attack(model, part, truth, keys=torch.arange(len(truth), device=part.device))
        with frozen(model), torch.no_grad():
            right += int((model(found.images).argmax(dim=1) == truth).sum())
    return 100 * right / len(labels)
