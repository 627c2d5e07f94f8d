"""What DynAT spares by wrong samples that are left alone and by early stops, and what its step
costs beside one of PGD-AT."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynat_ray.benchmarks.turns import cpu_threads, in_turn, seconds_of, spread
from dynat_ray.config import MethodSettings, RunConfig
from dynat_ray.data import Batch, load_info, load_split
from dynat_ray.forward_units import counting
from dynat_ray.methods import MethodContext, build_method, method_settings
from dynat_ray.methods.dynat import DynATSettings
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
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
    with cpu_threads(threads):
        trained = _Trained(run, batch_size, torch.device(device))
        everything = replace(trained.settings, early_stop=False, misclassified="uniform")
        trained.attack(trained.settings)
        passes = {}

        def attack(name: str, settings: MethodSettings) -> float:
            passes[name], seconds = trained.attack(settings)
            return seconds

        attacks = {
            "as it is": partial(attack, "as it is", trained.settings),
            "all": partial(attack, "all", everything),
        }
        seconds = in_turn("stopping", attacks, rounds)
        times = [1 - a / b for a, b in zip(*seconds.values(), strict=True)]
        dynat = trained.step_of(trained.settings)
        pgd_at = trained.step_of(method_settings()["pgd_at"]())
        for warm_up in (dynat, pgd_at):
            warm_up()
        steps = {
            "dynat": partial(seconds_of, dynat, device),
            "pgd_at": partial(seconds_of, pgd_at, device),
        }
        seconds = in_turn("step", steps, rounds)
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    passes_saved = 1 - passes["as it is"] / passes["all"]
    time_saved = statistics.median(times)
    return {
        "run": run.name,
        "passes_saved": round(passes_saved, 3),
        "time_saved": round(time_saved, 3),
        "paid": round(time_saved / passes_saved, 2) if passes_saved > 0 else None,
        "ratios": {"dynat_step_by_pgd_at": spread(ratios)},
    }


class _Trained:
    """A trained run's network with batches of its training images, and the run's settings."""

    def __init__(self, run: Path, batch_size: int, device: torch.device) -> None:
        self.config = config = read_run_config(run)
        method = config.method
        self.settings = method if isinstance(method, DynATSettings) else DynATSettings()
        self.device = device
        self.network = load_model(run).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.context = MethodContext(
            threat=Threat(config.threat.norm, config.threat.eps),
            attack=config.attack,
            step_size=config.step_size(),
            classes=load_info(config.data.path).num_classes,
        )
        images, labels = _training_images(config, _BATCHES * batch_size)
        self.batches = [
            Batch(
                pixels.to(device).float().div(255).contiguous(memory_format=torch.channels_last),
                truth.to(device),
                torch.arange(len(truth), device=device),
            )
            for pixels, truth in zip(
                images.split(batch_size), labels.split(batch_size), strict=True
            )
        ]

    def attack(self, settings: MethodSettings) -> tuple[int, float]:
        """Returns the passes of a method's attacks on all batches, and the seconds they took."""
        method = build_method(settings, self.context)

        def every_batch() -> None:
            for batch in self.batches:
                method.prepare(self.network, batch, batch.indices)

        with counting() as passes, autocast(self.config.train.precision, self.device):
            seconds = seconds_of(every_batch, self.device.type)
        return passes.image_gradients, seconds

    def step_of(self, settings: MethodSettings) -> Callable[[], None]:
        """Returns a function that takes a method's training steps, one a batch."""
        core = deepcopy(self.network)
        # The weights stay those of the run.
        optimizer = torch.optim.SGD(core.parameters(), lr=0.0)
        train = self.config.train
        method = build_method(settings, self.context)
        stepper = Stepper(wrap(core, train), method, optimizer, train, self.device)

        def every_batch() -> None:
            for number, batch in enumerate(self.batches):
                stepper.step(batch, 0, number, len(batch.labels))

        return every_batch


def _training_images(config: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Returns uint8 images and labels drawn from all classes: sources are often sorted by class."""
    total = load_info(config.data.path).counts["train"]
    positions = np.random.default_rng(0).permutation(total)[:count]
    return load_split(
        config.data.path, "train", image_size=config.data.image_size, positions=positions
    )
