"""Batch normalisation whose statistics stay as they are, and its activation, for less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (features (B, C, H, W), scale (C,), shift (C,)) -> relu(features * scale + shift), or None
FusedNormRelu = Callable[[Tensor, Tensor, Tensor], Tensor | None]


class FixedBatchNorm(nn.Module):
    """Takes the place of a batch normalisation in eval mode, and of its activation.

    It gives gradients with respect to its input alone.

    Args:
        norm: The batch normalisation, whose tensors are used as they are.
        fused: A convolution has taken over the normalisation; the activation is left.
        fused_relu: What normalises and activates in one pass, where the activation is a ReLU.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, norm: nn.Module, *, fused: bool, fused_relu: FusedNormRelu | None = None
    ) -> None:
        super().__init__()
        self._norm = [norm]  # in a list: no part of this module
        self.fused = fused
        activation = getattr(norm, "act", None)
        # timm puts it into a batch normalisation.
        self.activation = nn.Identity() if activation is None else activation
        self._fused_relu = fused_relu if type(self.activation) is nn.ReLU else None
        scale = scale_of(norm).detach()
        self.register_buffer("scale", torch.ones_like(scale))
        self.register_buffer("shift", torch.zeros_like(scale))

    def refresh(self, dtype: torch.dtype | None) -> None:
        """Takes over what the batch normalisation multiplies by and adds, in its own precision."""
        norm: Any = self._norm[0]
        if self.fused:
            return
        scale = scale_of(norm)
        if self.scale.device != scale.device:
            self.scale, self.shift = scale.clone(), torch.zeros_like(scale)
        else:
            self.scale.copy_(scale)  # in place: compiled graphs keep their inputs
        if scale.device.type == "cpu":  # elsewhere nobody reads it
            self.shift.copy_(-norm.running_mean * scale)
            if norm.bias is not None:
                self.shift.add_(norm.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Normalises and activates `(B, C, H, W)`."""
        norm: Any = self._norm[0]
        # A compiler joins passes too.
        if (
            self._fused_relu is not None
            and not torch.compiler.is_compiling()
            and self.scale.dtype == torch.float32
        ):
            together = self._fused_relu(features, self.scale, self.shift)
            if together is not None:
                return together
        if self.fused:
            unchanged: Tensor = self.activation(features)
            return unchanged
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
