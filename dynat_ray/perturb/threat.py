"""The threat model: where an attack starts, how it steps, how it stays in the ball.

Threats and balls know nothing of models or losses. Budgets and step sizes are per sample, shape
`(B,)`, in units of [0, 1] pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from dynat_ray import keyed_random
from dynat_ray.config import Norm
from dynat_ray.perturb.l1_ball import L1Ball

RandomStart = Literal["uniform", "gaussian", "none"]

# TRADES (Zhang et al. 2019) starts 0.001 standard normals away from the image.
GAUSSIAN_START = 0.001


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Returns `values` `(B,)` shaped `(B, 1, 1, ...)`, so that they broadcast over `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


class Ball(Protocol):
    """The set of images within `eps` of a clean one and inside [0, 1]."""

    def uniform_noise(self, images: Tensor, eps: Tensor, keys: Tensor) -> Tensor:
        """Returns noise `(B, C, H, W)` drawn uniformly from the ball of radius `eps` `(B,)`."""
        ...

    def step(self, adversarial: Tensor, gradient: Tensor, step_size: Tensor) -> Tensor:
        """Returns `adversarial` moved by `step_size` `(B,)` along steepest ascent.

        Where the gradient is NaN there is none to follow: it counts as 0.
        """
        ...

    def project(self, adversarial: Tensor, images: Tensor, eps: Tensor) -> Tensor:
        """Returns the nearest images within `eps` `(B,)` of `images` and inside [0, 1]."""
        ...


class LinfBall:
    """Every pixel may change by at most `eps`."""

    def uniform_noise(self, images: Tensor, eps: Tensor, keys: Tensor) -> Tensor:
        noise = keyed_random.uniform(keys, *images.shape[1:]) * 2 - 1
        return noise * per_sample(eps, images)

    def step(self, adversarial: Tensor, gradient: Tensor, step_size: Tensor) -> Tensor:
        return adversarial + gradient.sign() * per_sample(step_size, adversarial)

    def project(self, adversarial: Tensor, images: Tensor, eps: Tensor) -> Tensor:
        radius = per_sample(eps, images)
        return torch.clamp(
            adversarial, (images - radius).clamp_(min=0), (images + radius).clamp_(max=1)
        )


class L2Ball:
    """The whole image may change by at most `eps` in Euclidean length."""

    def uniform_noise(self, images: Tensor, eps: Tensor, keys: Tensor) -> Tensor:
        noise = keyed_random.normal(keys, *images.shape[1:])
        radius = keyed_random.uniform(keys, 1).squeeze(1).pow(1 / images.shape[1:].numel())
        return noise * per_sample(eps * radius / _length(noise), images)

    def step(self, adversarial: Tensor, gradient: Tensor, step_size: Tensor) -> Tensor:
        return adversarial + _direction(finite(gradient)) * per_sample(step_size, adversarial)

    def project(self, adversarial: Tensor, images: Tensor, eps: Tensor) -> Tensor:
        change = adversarial - images
        # Clamping to [0, 1] afterwards only shortens the change, so it stays in the ball.
        change = change * per_sample((eps / _length(change)).clamp(max=1), images)
        return (images + change).clamp_(0, 1)


def finite(gradient: Tensor) -> Tensor:
    """Returns a gradient with 0 where it is NaN, and the largest number where it is infinite."""
    return gradient.nan_to_num(nan=0.0)


def _direction(gradient: Tensor) -> Tensor:
    """Returns gradients `(B, C, H, W)` brought to length 1; 0 stays 0."""
    # A saturated loss has gradients whose squares are 0 in float32, but which point somewhere.
    largest = gradient.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    scaled = gradient / per_sample(largest, gradient)
    return scaled / per_sample(_length(scaled), scaled)


def _length(values: Tensor) -> Tensor:
    lengths: Tensor = values.flatten(1).norm(dim=1)
    return lengths.clamp(min=1e-12)


@dataclass(frozen=True)
class Threat:
    """What an attacker may do: change an image by at most `eps` in a norm, and stay in [0, 1].

    Attributes:
        norm: `Linf`, `L2` or `L1`.
        eps: Radius in units of [0, 1] pixels (for CIFAR-10 8/255 under Linf, 0.5 under L2, 12
            under L1).
    """

    norm: Norm
    eps: float

    @property
    def ball(self) -> Ball:
        """The geometry of the norm: how attacks step and stay inside."""
        return _BALLS[self.norm]

    def at(self, eps: float) -> Threat:
        """Returns the same norm with another radius."""
        return replace(self, eps=eps)

    def sizes(self, change: Tensor) -> Tensor:
        """Returns the size `(B,)` of changes `(B, C, H, W)` in the norm."""
        return change_sizes(change, self.norm)

    def start(
        self,
        images: Tensor,
        eps: Tensor,
        kind: RandomStart,
        keys: Tensor,
        carried: Tensor | None = None,
    ) -> Tensor:
        """Returns where an attack begins, `(B, C, H, W)` inside the ball.

        Args:
            images: Clean images `(B, C, H, W)` in [0, 1].
            eps: Budgets `(B,)`; a sample whose budget is 0 stays as it is.
            kind: `uniform` in the ball, `gaussian` (0.001 normals) or `none`.
            keys: One key `(B,)` for each sample's noise (`dynat_ray.keyed_random`).
            carried: Changes `(B, C, H, W)` to begin with; a sample whose change is 0 begins as
                `kind` says.
        """
        ball = self.ball
        if kind == "none":
            start = images.clone()
        elif kind == "uniform":
            start = ball.project(images + ball.uniform_noise(images, eps, keys), images, eps)
        else:
            noise = GAUSSIAN_START * keyed_random.normal(keys, *images.shape[1:])
            start = ball.project(images + noise, images, eps)
        if carried is None:
            return start
        known = carried.flatten(1).any(dim=1)
        return torch.where(
            per_sample(known, images), ball.project(images + carried, images, eps), start
        )


def change_sizes(change: Tensor, norm: Norm) -> Tensor:
    """Returns the size `(B,)` of changes `(B, C, H, W)` in a norm."""
    flat = change.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(dim=1)
    return flat.norm(dim=1) if norm == "L2" else flat.abs().sum(dim=1)


def largest_distance(norm: Norm, dimensions: int) -> float:
    """Returns how far two images of so many pixel values in [0, 1] are apart at most."""
    return {"Linf": 1.0, "L2": math.sqrt(dimensions), "L1": float(dimensions)}[norm]


_BALLS: dict[Norm, Ball] = {"Linf": LinfBall(), "L2": L2Ball(), "L1": L1Ball()}
