"""How fast a PGD-AT step is against other loops."""

from __future__ import annotations

import platform
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynat_ray.acceleration.precision import Precision, autocast, usable_precision
from dynat_ray.benchmarks.loops import LOOPS, PRECISIONS, make_step
from dynat_ray.benchmarks.our_loop import as_batch, classifier, our_stepper, random_batch, sgd
from dynat_ray.benchmarks.reference_loops import AttackSettings, Step
from dynat_ray.benchmarks.turns import Progress, cpu_threads, in_turn, seconds_of, spread

# A step on a GPU is so short that a round takes several.
_STEPS_A_ROUND = {"cpu": 1, "cuda": 10}


def measure(
    *,
    batch_size: int = 64,
    rounds: int = 3,
    device: str = "cpu",
    threads: int = 0,
    compiled: bool = False,
    width: int = 64,
) -> dict[str, Any]:
    """Times a PGD-10 step of `preact_resnet18` on random 32 x 32 images, all loops in turn.

    Args:
        batch_size: Images of a step.
        rounds: How often each loop is timed, after a step to warm up.
        device: Where.
        threads: CPU threads; 0: all cores.
        compiled: `torch.compile` ours.
        width: Channels of the network's first stage.

    Returns:
        `precision` of ours (bf16, or float32 on a device without it), `loss_raised` (by our loops,
        what their attacks add to the cross-entropy), `seconds` (median of a step, by loop) and
        `ratios` (by loop, its time by that of ours: `median`, `min`, `max` over the rounds).

    Raises:
        RuntimeError: What is timed does not attack.
    """
    with cpu_threads(threads):
        images, labels = random_batch(batch_size, device)
        raised = _require_attack(images, labels, compiled=compiled, width=width)
        several = {}
        warm_up = Progress("step", len(LOOPS))
        for name in LOOPS:
            model = classifier(seed=0, shape=(3, 32, 32), base_width=width).to(device)
            step = make_step(name, model, sgd(model), AttackSettings(), compiled=compiled)
            first = seconds_of(partial(step, images, labels), device)
            warm_up.done(f"warm-up       {name:<20} {first:9.3f} s")
            several[name] = partial(_time_of_a_step, step, images, labels, device)
        seconds = in_turn("step", several, rounds)
    return {
        "model": "preact_resnet18",
        "width": width,
        "batch_size": batch_size,
        "precision": usable_precision("bf16", torch.device(device)),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "loss_raised": raised,
        "seconds": {name: round(statistics.median(each), 4) for name, each in seconds.items()},
        "ratios": {
            name: spread([a / b for a, b in zip(each, seconds["ours"], strict=True)])
            for name, each in seconds.items()
            if name != "ours"
        },
    }


def _require_attack(
    images: Tensor, labels: Tensor, *, compiled: bool, width: int = 64
) -> dict[str, float]:
    """Makes sure that what is timed attacks; returns how much each attack raises the loss.

    Raises:
        RuntimeError: Ours raises it by less than half of what it does in float32, uncompiled.
    """
    raised = {
        name: _raised_loss(
            images, labels, precision, compiled=compiled and precision == "bf16", width=width
        )
        for name, precision in PRECISIONS.items()
    }
    if not raised["ours"] > 0.5 * raised["ours_float32"]:
        raise RuntimeError(f"the attack does not work, so its speed means nothing: {raised}")
    return raised


def _raised_loss(
    images: Tensor, labels: Tensor, precision: Precision, *, compiled: bool, width: int
) -> float:
    model = classifier(seed=0, shape=(3, 32, 32), base_width=width).to(images.device)
    stepper = our_stepper(model, sgd(model), AttackSettings(), precision, compiled=compiled)
    batch = as_batch(images, labels)
    # The second attack is what a GPU replays.
    for _ in range(2):
        with autocast(precision, images.device):
            prepared = stepper.method.prepare(stepper.networks.attacked, batch, batch.indices)
    assert prepared.adversarial is not None
    before, after = (
        torch.nn.functional.cross_entropy(stepper.method.clean_logits(model, each), labels)
        for each in (batch.images, prepared.adversarial)
    )
    return float(after - before)


def _time_of_a_step(step: Step, images: Tensor, labels: Tensor, device: str) -> float:
    """Returns the seconds of a step, the mean of as many as a round has."""
    times = _STEPS_A_ROUND[device]

    def several() -> None:
        for _ in range(times):
            step(images, labels)

    return seconds_of(several, device) / times
