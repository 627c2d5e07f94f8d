"""Convolutions whose gradients come by Winograd's algorithm, for training on a CPU.

What is learnt rounds as before: where bfloat16 numbers are multiplied the outputs are those of
direct convolutions, and only gradients round more, by one per cent of their length in a layer.
Where float32 ones are, so that the algorithm is exact to the last digits, outputs come by it too,
and convolutions with a stride of 2 take part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from dynat_ray.acceleration.cpu.winograd import formats
from dynat_ray.acceleration.cpu.winograd.convolution import pays, strides_pay, suits
from dynat_ray.acceleration.cpu.winograd.kernels import transformed_kernels
from dynat_ray.acceleration.cpu.winograd.operators import tiles

# With fewer channels the two transforms of the weights' gradient cost what is spared, unless direct
# convolutions are slow; with fewer tiles that of the kernels does.
_FEWEST_CHANNELS = 32
_FEWEST_CHANNELS_WHERE_DIRECT_IS_SLOW = 16
_FEWEST_TILES = 64


class WinogradGradients(TorchFunctionMode):
    """A context in which convolutions that suit the algorithm use it, whatever the network.

    For loss and backward pass; second derivatives fail in it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d:
            return _convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Does what `F.conv2d` does."""
    dtype = input.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    step = 2 if stride in (2, (2, 2)) else 1
    if (
        torch.is_grad_enabled()
        and weight.requires_grad
        and groups == 1
        and stride in (step, (step, step))
        and all(value in (1, (1, 1)) for value in (padding, dilation))
        and suits(weight)
        and formats.multiplies(dtype)
        and min(weight.shape[:2]) >= _fewest_channels(dtype)
        and (step == 1 or strides_pay(dtype, min(weight.shape[:2])))
        and pays(input, step)
        and len(input) * tiles(*input.shape[2:]) >= _FEWEST_TILES * step**2
    ):
        result: Tensor = _Convolve.apply(input.to(dtype), weight, bias, step)
        return result
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _fewest_channels(dtype: torch.dtype) -> int:
    if dtype == torch.bfloat16 and not formats.rounds_factors(dtype):
        return _FEWEST_CHANNELS_WHERE_DIRECT_IS_SLOW
    return _FEWEST_CHANNELS


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, stride: int
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.stride = stride
        dtype = features.dtype
        if not formats.rounds_factors(dtype):
            kernels = transformed_kernels(weight, dtype, stride=stride)
            result: Tensor = torch.ops.dynat_ray.winograd(features, kernels, bias, stride)
            return result
        assert stride == 1
        bias = None if bias is None else bias.to(dtype)
        # Not autocast's copy of the weights, which it would keep for later without a gradient.
        return F.conv2d(features, weight.to(dtype), bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        upstream = upstream.to(features.dtype).contiguous(memory_format=torch.channels_last)
        of_features = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            kernels = transformed_kernels(weight, upstream.dtype, stride=ctx.stride, turned=True)
            if ctx.stride == 1:
                of_features = torch.ops.dynat_ray.winograd(upstream, kernels, None)
            else:
                of_features = torch.ops.dynat_ray.winograd_strided_gradient(
                    upstream, kernels, *features.shape[2:]
                )
        if ctx.needs_input_grad[1]:
            if ctx.stride == 1:
                of_weight = torch.ops.dynat_ray.winograd_weight_gradient(
                    features, upstream, formats.in_training(features.dtype)
                )
            else:
                of_weight = _strided_weight_gradient(features, upstream, weight)
        if ctx.needs_input_grad[2]:
            of_bias = upstream.sum(dim=(0, 2, 3), dtype=torch.float32)
        return of_features, of_weight, of_bias, None


def _strided_weight_gradient(features: Tensor, upstream: Tensor, weight: Tensor) -> Tensor:
    """Returns it for a stride of 2, the direct way, and in float32 as that is faster here."""
    _, gradient, _ = torch.ops.aten.convolution_backward(
        upstream.float(), features.float(), weight, None, (2, 2), (1, 1), (1, 1), False, (0, 0), 1,
        (False, True, False),
    )  # fmt: skip
    assert isinstance(gradient, Tensor)
    return gradient
