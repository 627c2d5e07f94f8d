"""The network of a trained run, to be timed on its own training images."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynat_ray.acceleration.precision import autocast
from dynat_ray.benchmarks.turns import seconds_of
from dynat_ray.config import MethodSettings, RunConfig
from dynat_ray.data import Batch, load_info, load_split
from dynat_ray.forward_units import counting
from dynat_ray.method_settings.budgets import DynATSettings
from dynat_ray.methods import MethodContext, build_method
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.training.step import Stepper, wrap

_BATCHES = 4


class TrainedRun:
    """A trained run's network with batches of its training images, and the run's settings.

    Args:
        run: Run folder.
        batch_size: Images of a batch, of which there are four.
        device: Where.

    Attributes:
        settings: Of DynAT: the run's, or the defaults where it was trained by another method.
        batches: As the loader gives them.
    """

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
        images, labels = training_images(config, _BATCHES * batch_size)
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

    def stepper(self, settings: MethodSettings, *, compiled: bool = False) -> Stepper:
        """Returns what takes a method's training steps; the weights stay those of the run."""
        core = deepcopy(self.network)
        optimizer = torch.optim.SGD(core.parameters(), lr=0.0)
        train = replace(self.config.train, compile=compiled or self.config.train.compile)
        method = build_method(settings, self.context)
        return Stepper(wrap(core, train), method, optimizer, train, self.device)


def training_images(config: RunConfig, count: int) -> tuple[Tensor, Tensor]:
    """Returns uint8 images and labels drawn from all classes: sources are often sorted by class."""
    total = load_info(config.data.path).counts["train"]
    positions = np.random.default_rng(0).permutation(total)[:count]
    return load_split(
        config.data.path, "train", image_size=config.data.image_size, positions=positions
    )
