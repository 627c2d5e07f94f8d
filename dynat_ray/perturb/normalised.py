"""Batch normalisation whose statistics stay as they are, with a short backward pass."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalised(nn.Module):
    """Takes the place of a batch normalisation in eval mode, and of its activation.

    Its backward pass is one product; it gives gradients with respect to its input alone.

    Args:
        norm: The batch normalisation, whose tensors are used as they are.
    """

    scale: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self._norm = [norm]  # in a list: no part of this module
        self.activation = activation_of(norm)
        self.register_buffer("scale", scale_of(norm).detach().clone())

    def refresh(self, dtype: torch.dtype | None) -> None:
        """Takes over what the batch normalisation multiplies by now, in its own precision."""
        scale = scale_of(self._norm[0])
        if self.scale.device == scale.device:
            self.scale.copy_(scale)  # in place: compiled graphs keep their inputs
        else:
            self.scale = scale.clone()

    def forward(self, features: Tensor) -> Tensor:
        """Normalises and activates `(B, C, H, W)`."""
        norm: Any = self._norm[0]
        normalised = _Normalise.apply(
            features,
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            norm.eps,
            self.scale,
        )
        activated: Tensor = self.activation(normalised)
        return activated


class _Normalise(torch.autograd.Function):
    """Batch normalisation with fixed statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        scale: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(scale)
        return F.batch_norm(features, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = ctx.saved_tensors
        gradient = gradients[0] * scale.to(gradients[0].dtype).view(1, -1, 1, 1)
        return gradient, None, None, None, None, None, None


def scale_of(norm: Any) -> Tensor:
    """Returns what a batch normalisation multiplies each channel by, `(C,)`."""
    scale: Tensor = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight


def activation_of(norm: nn.Module) -> nn.Module:
    """Returns the activation that timm puts into a batch normalisation, or none."""
    activation = getattr(norm, "act", None)
    return nn.Identity() if activation is None else activation
