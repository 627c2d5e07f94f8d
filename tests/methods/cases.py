"""A small classifier, and methods made and run as the training loop does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.config import AttackConfig
from dynat_ray.data import Batch
from dynat_ray.forward_units import Passes, counting
from dynat_ray.method_settings import method_settings
from dynat_ray.methods import Method, MethodContext, build_method
from dynat_ray.methods.contract import checked_loss, checked_prepare
from dynat_ray.models import Classifier
from dynat_ray.perturb.threat import Threat
from dynat_ray.training.step import StepPart

KEYS = torch.arange(12)


class TinyBackbone(nn.Module):
    """A convolution and a linear layer on 4x4 grey images, with timm's interface."""

    num_features = 6

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.fc = nn.Linear(96, classes)

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.trunk(images)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features.flatten(1))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


def tiny_classifier(classes: int = 4) -> Classifier:
    """Returns a classifier of 4x4 grey images whose pixels are not normalised."""
    return Classifier(
        TinyBackbone(classes),
        name="tiny",
        arguments={},
        num_classes=classes,
        size=(4, 4),
        mean=[0.0],
        std=[1.0],
    )


def make(name: str, smoothing: float = 0.0, **settings: Any) -> Method[Any]:
    """Returns a method with eps 0.2 and four steps."""
    context = MethodContext(
        threat=Threat("Linf", 0.2),
        attack=AttackConfig(steps=4),
        step_size=0.08,
        classes=4,
        label_smoothing=smoothing,
        training_samples=12,
        starts_trained=True,
    )
    return build_method(method_settings()[name](**settings), context)


@dataclass(frozen=True)
class Step:
    """What became of a batch: its attack, and what was recorded of both halves of the step."""

    adversarial: Any
    weights: Any
    record: dict[str, Tensor]
    extras: Mapping[str, Tensor]
    passes: Passes


def loss_of(method: Method[Any], network: nn.Module, batch: Batch) -> tuple[Tensor, Step]:
    """Returns a batch's loss as the training loop takes it, and what else became of it."""
    with counting() as passes:
        prepared = checked_prepare(method, network, batch, KEYS)
        network.train(method.outer_mode == "train")
        result = checked_loss(method, network, prepared)
    part = StepPart(prepared, result)
    return result.loss, Step(
        prepared.adversarial, prepared.weights, part.record, prepared.extras, passes
    )


def require_equal(network: Classifier, loss: Tensor, expected: Tensor) -> None:
    """Requires that two losses and their gradients are alike, within 1e-5."""
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    parameters = list(network.parameters())
    for one, other in zip(
        *(torch.autograd.grad(each, parameters, allow_unused=True) for each in (loss, expected)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
