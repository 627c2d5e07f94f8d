"""How fast a PGD-AT step is against other loops, and whether it teaches as much."""

from __future__ import annotations

import math
import platform
import statistics
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynat_ray.benchmarks.reference_loops import (
    CLASSES,
    AttackSettings,
    Step,
    art_step,
    robust_overfitting_step,
    torchattacks_step,
)
from dynat_ray.benchmarks.timing import cpu_threads, seconds_of, spread
from dynat_ray.config import AttackConfig, ThreatConfig, TrainConfig
from dynat_ray.data import Batch, load_split, load_test_images
from dynat_ray.methods import MethodContext, build_method, method_settings
from dynat_ray.models import Classifier, build_model
from dynat_ray.perturb.frozen import frozen
from dynat_ray.perturb.pgd import pgd
from dynat_ray.perturb.threat import get_ball
from dynat_ray.training.precision import Precision, usable_precision
from dynat_ray.training.step import Stepper, wrap

_REFERENCES = {
    name: loop
    for name, loop, package in (
        ("robust_overfitting", robust_overfitting_step, "torch"),
        ("torchattacks", torchattacks_step, "torchattacks"),
        ("art", art_step, "art"),
    )
    if find_spec(package)
}
LOOPS = ("ours", "ours_float32", *_REFERENCES)
# Student's t for the 95 % interval of a mean of so many paired differences.
_STUDENT_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


def measure(
    *,
    batch_size: int = 64,
    rounds: int = 3,
    device: str = "cpu",
    threads: int = 0,
    compiled: bool = False,
) -> dict[str, Any]:
    """Times a PGD-10 step of `preact_resnet18` on random 32 x 32 images, all loops in turn.

    Args:
        batch_size: Images of a step.
        rounds: How often each loop is timed, after a step to warm up.
        device: Where.
        threads: CPU threads; 0: all cores.
        compiled: `torch.compile` ours.

    Returns:
        `precision` of ours (bf16, or float32 on a device without it), `seconds` (median of a step,
        by loop) and `ratios` (by loop, its time by that of ours: `median`, `min`, `max` over the
        rounds).
    """
    with cpu_threads(threads):
        images, labels = random_batch(batch_size, device)
        steps = {}
        for name in LOOPS:
            model = _classifier(seed=0, shape=(3, 32, 32)).to(device)
            attack = AttackSettings()
            steps[name] = _make_step(name, model, _sgd(model), attack, compiled=compiled)
            steps[name](images, labels)
        seconds: dict[str, list[float]] = {name: [] for name in LOOPS}
        for _ in range(rounds):
            for name, step in steps.items():
                seconds[name].append(seconds_of(partial(step, images, labels), device))
    return {
        "model": "preact_resnet18",
        "batch_size": batch_size,
        "precision": usable_precision("bf16", torch.device(device)),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "seconds": {name: round(statistics.median(each), 4) for name, each in seconds.items()},
        "ratios": {
            name: spread([a / b for a, b in zip(each, seconds["ours"], strict=True)])
            for name, each in seconds.items()
            if name != "ours"
        },
    }


def compare_accuracy(
    path: Path, *, steps: int = 300, seeds: int = 3, samples: int = 1000, device: str = "cpu"
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

    Returns:
        `pgd_20_accuracy` in percent by loop and seed, and `difference`: by loop of ours, the mean
        of the paired differences (ours minus theirs) with its 95 % interval.
    """
    images, labels = (each.to(device) for each in load_split(path, "train"))
    test_images, test_labels = (each.to(device) for each in load_test_images(path, samples))
    attack = AttackSettings(steps=5, step_size=4 / 255)
    found: dict[str, list[float]] = {name: [] for name in LOOPS[:3]}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randint(len(labels), (steps, 64), generator=generator)
        for name, accuracies in found.items():
            torch.manual_seed(seed)
            shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
            model = _classifier(base_width=16, seed=seed, shape=shape).to(device)
            optimizer = _sgd(model)
            step = _make_step(name, model, optimizer, attack, compiled=False)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
            for rows in order.to(device):
                step(images[rows].float() / 255, labels[rows])
                schedule.step()
            accuracies.append(_robust_accuracy(model, test_images, test_labels))
    theirs = found["robust_overfitting"]
    return {
        "data": path.name,
        "steps": steps,
        "pgd_20_accuracy": found,
        "difference": {name: _paired(found[name], theirs) for name in ("ours", "ours_float32")},
    }


def random_batch(batch_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Returns random images `(B, 3, 32, 32)` in [0, 1] and labels `(B,)`."""
    images = torch.rand(batch_size, 3, 32, 32, device=device)
    return images, torch.randint(CLASSES, (batch_size,), device=device)


def our_step(model: str, precision: Precision, *, device: str, compiled: bool = False) -> Step:
    """Returns our PGD-AT step on a new network for images like those of `random_batch`."""
    network = _classifier(model, seed=0, shape=(3, 32, 32)).to(device)
    return _our_step(network, _sgd(network), AttackSettings(), precision, compiled=compiled)


def _paired(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.mean(differences)
    half = _STUDENT_95[len(ours)] * statistics.stdev(differences) / math.sqrt(len(ours))
    return {"mean": round(mean, 2), "interval": [round(mean - half, 2), round(mean + half, 2)]}


def _sgd(model: Classifier) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def _make_step(
    name: str,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    attack: AttackSettings,
    *,
    compiled: bool,
) -> Step:
    if name.startswith("ours"):
        precision: Precision = "bf16" if name == "ours" else "float32"
        return _our_step(model, optimizer, attack, precision, compiled=compiled)
    return _REFERENCES[name](model, optimizer, attack)


def _our_step(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    attack: AttackSettings,
    precision: Precision,
    *,
    compiled: bool,
) -> Step:
    """The package's own step, as `dynat_ray.train --method.name pgd_at` runs it."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(model.parameters()).device
    context = MethodContext(
        threat=ThreatConfig(eps=attack.eps),
        attack=AttackConfig(steps=attack.steps),
        step_size=attack.step_size,
        classes=CLASSES,
    )
    config = TrainConfig(precision=precision, compile=compiled)
    method = build_method(method_settings()["pgd_at"](), context)
    stepper = Stepper(wrap(model, config), method, optimizer, config, device)
    done = 0

    def step(images: Tensor, labels: Tensor) -> None:
        nonlocal done
        indices = torch.arange(len(labels), device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        stepper.step(Batch(images, labels, indices), done, done, len(labels))
        done += 1

    return step


def _classifier(
    name: str = "preact_resnet18", *, seed: int, shape: tuple[int, int, int], **kwargs: int
) -> Classifier:
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_model(
            name,
            num_classes=CLASSES,
            channels=channels,
            size=(height, width),
            mean=[0.5] * channels,
            std=[0.25] * channels,
            kwargs=kwargs,
        )


def _robust_accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    model = model.float()
    right = 0
    for part, truth in zip(images.split(250), labels.split(250), strict=True):
        found = pgd(
            model,
            part,
            truth,
            ball=get_ball("Linf"),
            eps=8 / 255,
            step_size=2 / 255,
            steps=20,
            keys=torch.arange(len(truth), device=part.device),
        )
        with frozen(model), torch.no_grad():
            right += int((model(found.images).argmax(dim=1) == truth).sum())
    return 100 * right / len(labels)
