"""Refuses samples and models that do not fit before anything is computed with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynat_ray.attacks.registry import Attack
from dynat_ray.attacks.square import Square
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import device_of, exact

# Rounding that scaling to [0, 1] may leave.
_TOLERANCE = 1e-6


def check_samples(images: Tensor, labels: Tensor) -> None:
    """Raises `UserError` unless there are images `(N, C, H, W)` in [0, 1] with labels `(N,)`."""
    if images.dim() != 4:
        raise UserError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
    if len(images) == 0:
        raise UserError("there are 0 samples to evaluate; at least 1 is needed")
    if labels.shape != images.shape[:1]:
        raise UserError(f"{len(images)} images, but labels of shape {tuple(labels.shape)}")
    if images.dtype != torch.float32:
        raise UserError(f"images must be float32 in [0, 1], not {images.dtype}")
    low, high = (float(value) for value in images.aminmax())
    # Also refuses NaN, which compares false.
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise UserError(
            f"images must lie in [0, 1], these lie in [{low:.4g}, {high:.4g}]; scale them, and "
            "leave normalisation to the model"
        )


def count_classes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Returns how many classes the model tells apart.

    Args:
        model: Images in [0, 1] to logits.
        images: `(N, C, H, W)`, N at least 1; the first is put through the model.
        labels: int64 `(N,)`.

    Raises:
        UserError: The model does not take such images, gives no logits or NaN, or has fewer
            classes than the labels.
    """
    shape = " x ".join(str(length) for length in images.shape[1:])
    with exact(model) as ready, torch.no_grad():
        try:
            logits = ready(images[:1].to(device_of(ready)))
        except Exception as error:  # the network may be anybody's
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"the model does not take images of {shape}: {reason}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the model must return logits of shape (B, classes); for B = 1: {found}")
    classes = int(logits.shape[1])
    if classes < 2:
        raise UserError("the model has one output; at least two classes are needed")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"labels lie in [{low}, {high}], but the model has {classes} classes; is this the "
            "data set it was trained on?"
        )
    return classes


def has_gradient(model: nn.Module, images: Tensor) -> bool:
    """Returns whether a model's logits have a gradient with respect to images `(N, C, H, W)`.

    One that leaves PyTorch on the way, or forbids gradients itself, has none.
    """
    with exact(model) as ready, torch.enable_grad():
        inputs = images[:1].to(device_of(ready)).clone().requires_grad_(True)
        try:
            torch.autograd.grad(ready(inputs).sum(), inputs)
        except (RuntimeError, TypeError):
            return False
    return True


def require_black_box(attacks: Sequence[Attack], probes: Sequence[str]) -> None:
    """Raises `UserError` if something is asked for that follows gradients, which there are none of.

    Args:
        attacks: On a model without gradient.
        probes: Names of measurements that follow it.
    """
    blind = [
        attack.name
        for attack in attacks
        if not all(isinstance(stage, Square) for stage in attack.stages)
    ]
    if blind := [*blind, *probes]:
        raise UserError(
            f"the model's logits have no gradient with respect to the image, which "
            f"{', '.join(blind)} would follow; only black-box attacks can run: give --attacks "
            "clean,square, or --backward"
        )
