"""The training loops that users would write, or find, instead of ours.

Each takes a model, an optimiser and settings and returns a function that trains on one batch.
They are written for this comparison after reading how those projects work; what slows them down
is what such loops really do.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], None]

CLASSES = 10


@dataclass(frozen=True)
class AttackSettings:
    """PGD under Linf.

    Attributes:
        eps: Radius in units of [0, 1] pixels.
        step_size: Length of a step.
        steps: Number of steps.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10


def robust_overfitting_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, attack: AttackSettings
) -> Step:
    """A step in the style of Rice et al. (2020): float32, attack in training mode.

    The attack's backward passes compute weight gradients too, the best of the (single) restart is
    found by an extra forward pass, a clean forward pass serves the log, and losses are read from
    the device at every step.
    """

    def step(images: Tensor, labels: Tensor) -> None:
        model.train()
        change = torch.zeros_like(images).uniform_(-attack.eps, attack.eps)
        change = ((images + change).clamp(0, 1) - images).requires_grad_(True)
        for _ in range(attack.steps):
            loss = F.cross_entropy(model(images + change), labels)
            loss.backward()
            assert change.grad is not None
            moved = (change + attack.step_size * change.grad.sign()).clamp(-attack.eps, attack.eps)
            change.data = (images + moved).clamp(0, 1) - images
            change.grad.zero_()
        with torch.no_grad():
            F.cross_entropy(model(images + change), labels, reduction="none").max().item()
        robust = model(images + change.detach())
        loss = F.cross_entropy(robust, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clean = model(images)
        F.cross_entropy(clean, labels).item()
        loss.item()
        (robust.argmax(dim=1) == labels).sum().item()
        (clean.argmax(dim=1) == labels).sum().item()

    return step


def torchattacks_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, attack: AttackSettings
) -> Step:
    """A plain training loop around torchattacks' PGD, float32. Needs `torchattacks`."""
    import torchattacks

    pgd = torchattacks.PGD(model, eps=attack.eps, alpha=attack.step_size, steps=attack.steps)

    def step(images: Tensor, labels: Tensor) -> None:
        model.train()
        adversarial = pgd(images, labels)
        loss = F.cross_entropy(model(adversarial), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def art_step(model: nn.Module, optimizer: torch.optim.Optimizer, attack: AttackSettings) -> Step:
    """A step of the Adversarial Robustness Toolbox's Madry trainer, float32, from numpy arrays.

    Needs `adversarial-robustness-toolbox`. Its trainer shuffles, attacks in parts of 32 images and
    fits; one call is one batch, for `CLASSES` classes.
    """
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    def step(images: Tensor, labels: Tensor) -> None:
        classifier = PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            optimizer=optimizer,
            input_shape=tuple(images.shape[1:]),
            nb_classes=CLASSES,
            clip_values=(0.0, 1.0),
            device_type="gpu" if images.is_cuda else "cpu",
        )
        trainer = AdversarialTrainerMadryPGD(
            classifier, eps=attack.eps, eps_step=attack.step_size, max_iter=attack.steps
        )
        one_hot = F.one_hot(labels, CLASSES).float().cpu().numpy()
        with redirect_stderr(io.StringIO()):  # progress bars
            trainer.fit(images.cpu().numpy(), one_hot, nb_epochs=1, batch_size=len(images))

    return step
