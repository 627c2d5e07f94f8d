"""Batch normalisation with fixed statistics and a ReLU, on a CPU, in one pass over memory each way.

PyTorch takes two passes forwards and two back, and its own of bfloat16 numbers take several times
as long as reading them.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dynat_ray.acceleration.cpu import native_code

# Channels come in multiples of what is computed at once.
_MULTIPLE = 16


def suits(features: Tensor) -> bool:
    """Returns whether `normalised_relu` can take these."""
    return (
        features.device.type == "cpu"
        and features.dim() == 4
        and features.shape[1] % _MULTIPLE == 0
        and features.is_contiguous(memory_format=torch.channels_last)
        and _function("normalise", features.dtype) is not None
    )


def normalised_relu(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Returns `relu(features * scale + shift)`, with gradients with respect to features alone.

    Args:
        features: `(B, C, H, W)` that `suits`.
        scale: `(C,)`, float32.
        shift: The same.
    """
    result: Tensor = _NormalisedRelu.apply(features, scale, shift)
    return result


class _NormalisedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.dynat_ray.normalised_relu(features, scale, shift)
        ctx.save_for_backward(outputs, scale)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        outputs, scale = ctx.saved_tensors
        return (
            torch.ops.dynat_ray.normalised_relu_gradient(gradients[0], outputs, scale),
            None,
            None,
        )


def _outputs(features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return _computed("normalise", features, scale, shift)


def _gradient(upstream: Tensor, outputs: Tensor, scale: Tensor) -> Tensor:
    upstream = upstream.contiguous(memory_format=torch.channels_last)
    return _computed("backpropagate", upstream, outputs, scale)


def _computed(name: str, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    result, channels = torch.empty_like(first), first.shape[1]
    _function(name, first.dtype)(
        first.data_ptr(),
        second.data_ptr(),
        third.data_ptr(),
        result.data_ptr(),
        first.numel() // channels,
        channels,
        torch.get_num_threads(),
    )
    return result


def _like_first(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    return torch.empty_like(first, memory_format=torch.channels_last)


# Operators of PyTorch, so that compilers can have them in their graphs and profiles name them.
for _name, _implementation, _arguments in (
    ("normalised_relu", _outputs, "Tensor features, Tensor scale, Tensor shift"),
    ("normalised_relu_gradient", _gradient, "Tensor upstream, Tensor outputs, Tensor scale"),
):
    torch.library.define(f"dynat_ray::{_name}", f"({_arguments}) -> Tensor")
    torch.library.impl(f"dynat_ray::{_name}", "CPU", _implementation)
    torch.library.register_fake(f"dynat_ray::{_name}", _like_first)


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    return native_code.function(_library(), name, "ppppnni", dtype)


@cache
def _library() -> ctypes.CDLL | None:
    return native_code.library("normalised_relu")
