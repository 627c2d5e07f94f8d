"""Our own step, as the benchmarks time it."""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray.acceleration.precision import Precision
from dynat_ray.benchmarks.reference_loops import CLASSES, AttackSettings, Step
from dynat_ray.config import AttackConfig, TrainConfig
from dynat_ray.data import Batch
from dynat_ray.method_settings import method_settings
from dynat_ray.methods import MethodContext, build_method
from dynat_ray.models import Classifier, build_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.training.step import Stepper, wrap


def our_step(
    model: str,
    precision: Precision,
    *,
    device: str,
    compiled: bool = False,
    cuda_graphs: bool = True,
    **arguments: int,
) -> Step:
    """Returns our PGD-AT step on a new network for images like those of `random_batch`."""
    network = classifier(model, seed=0, shape=(3, 32, 32), **arguments).to(device)
    stepper = our_stepper(
        network,
        sgd(network),
        AttackSettings(),
        precision,
        compiled=compiled,
        cuda_graphs=cuda_graphs,
    )
    return as_step(stepper)


def our_stepper(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    attack: AttackSettings,
    precision: Precision,
    *,
    compiled: bool,
    cuda_graphs: bool = True,
) -> Stepper:
    """The package's own step, as `dynat_ray.train --method.name pgd_at` runs it."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(model.parameters()).device
    context = MethodContext(
        threat=Threat("Linf", attack.eps),
        attack=AttackConfig(steps=attack.steps, cuda_graphs=cuda_graphs),
        step_size=attack.step_size,
        classes=CLASSES,
    )
    config = TrainConfig(precision=precision, compile=compiled)
    method = build_method(method_settings()["pgd_at"](), context)
    return Stepper(wrap(model, config), method, optimizer, config, device)


def as_step(stepper: Stepper) -> Step:
    """Returns a function that trains on one batch, as those of `reference_loops`."""
    done = 0

    def step(images: Tensor, labels: Tensor) -> None:
        nonlocal done
        stepper.step(as_batch(images, labels), done, done, len(labels))
        done += 1

    return step


def as_batch(images: Tensor, labels: Tensor) -> Batch:
    """Returns what our loader would give for images `(B, C, H, W)` and labels `(B,)`."""
    indices = torch.arange(len(labels), device=labels.device)
    return Batch(images.contiguous(memory_format=torch.channels_last), labels, indices)


def random_batch(batch_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Returns random images `(B, 3, 32, 32)` in [0, 1] and labels `(B,)`."""
    images = torch.rand(batch_size, 3, 32, 32, device=device)
    return images, torch.randint(CLASSES, (batch_size,), device=device)


def classifier(
    name: str = "preact_resnet18", *, seed: int, shape: tuple[int, int, int], **kwargs: int
) -> Classifier:
    """Returns a new network, the same for the same seed, for images of `(C, H, W)`."""
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


def sgd(model: Classifier) -> torch.optim.SGD:
    """Returns the optimiser of all loops."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
