"""What DynAT spares by wrong samples that are left alone and by early stops, and what its step
costs beside one of PGD-AT."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynat_ray.benchmarks.turns import cpu_threads, seconds_of, spread
from dynat_ray.config import RunConfig
from dynat_ray.data import Batch, load_info, load_split
from dynat_ray.methods import MethodContext, build_method, method_settings
from dynat_ray.methods.dynat import DynATSettings
from dynat_ray.models import load_model
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.training.device import autocast
from dynat_ray.training.step import Stepper, wrap

_BATCHES = 4


def measure(
    run: Path, *, batch_size: int = 128, rounds: int = 3, device: str = "cpu", threads: int = 0
) -> dict[str, Any]:
    """Times DynAT's attack on training images as it is, and with all steps for all samples.

    Args:
        run: Run folder of a trained model; its threat, attack, precision and data are used, and
            its DynAT settings if it has any.
        batch_size: Images of a batch; four batches are attacked.
        rounds: How often, both in turn.
        device: Where.
        threads: CPU threads; 0: all cores.

    Returns:
        `passes_saved` and `time_saved` (shares of the full attack, the clean forward pass
        included in the time), `paid`, the second by the first, and among `ratios` the time of
        DynAT's whole training step by that of PGD-AT's on the same weights and batches.
    """
    config = read_run_config(run)
    settings = config.method if isinstance(config.method, DynATSettings) else DynATSettings()
    everything = replace(settings, early_stop=False, misclassified="uniform")
    network = load_model(run).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = _training_images(config, _BATCHES * batch_size)
    context = MethodContext(
        threat=config.threat,
        attack=config.attack,
        step_size=config.step_size(),
        classes=load_info(config.data.path).num_classes,
    )
    batches = [
        Batch(
            pixels.to(device).float().div(255).contiguous(memory_format=torch.channels_last),
            truth.to(device),
            torch.arange(len(truth), device=device),
        )
        for pixels, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    ]

    def attack(chosen: Any) -> tuple[int, float]:
        method, passes = build_method(chosen, context), 0

        def every_batch() -> None:
            nonlocal passes
            for batch in batches:
                passes += method.prepare(network, batch, batch.indices).passes

        with autocast(config.train.precision, torch.device(device)):
            seconds = seconds_of(every_batch, device)
        return passes, seconds

    def training(chosen: Any) -> Callable[[], None]:
        core = deepcopy(network)
        # The weights stay those of the run.
        optimizer = torch.optim.SGD(core.parameters(), lr=0.0)
        stepper = Stepper(
            wrap(core, config.train),
            build_method(chosen, context),
            optimizer,
            config.train,
            torch.device(device),
        )

        def every_batch() -> None:
            for number, batch in enumerate(batches):
                stepper.step(batch, 0, number, len(batch.labels))

        return every_batch

    with cpu_threads(threads):
        attack(settings)
        times = []
        for _ in range(rounds):
            passes, seconds = attack(settings)
            all_passes, all_seconds = attack(everything)
            times.append(1 - seconds / all_seconds)
        dynat, pgd_at = training(settings), training(method_settings()["pgd_at"]())
        dynat()
        pgd_at()
        steps = [seconds_of(dynat, device) / seconds_of(pgd_at, device) for _ in range(rounds)]
    passes_saved, time_saved = 1 - passes / all_passes, statistics.median(times)
    return {
        "run": run.name,
        "passes_saved": round(passes_saved, 3),
        "time_saved": round(time_saved, 3),
        "paid": round(time_saved / passes_saved, 2) if passes_saved > 0 else None,
        "ratios": {"dynat_step_by_pgd_at": spread(steps)},
    }


def _training_images(config: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Returns uint8 images and labels drawn from all classes: sources are often sorted by class."""
    total = load_info(config.data.path).counts["train"]
    positions = np.random.default_rng(0).permutation(total)[:count]
    return load_split(
        config.data.path, "train", image_size=config.data.image_size, positions=positions
    )
