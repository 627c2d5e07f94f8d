"""Convolutions of 3 x 3 and their gradients by Winograd's algorithm, on a CPU.

Four by four outputs at once take 36 products for each pair of channels instead of 144 (Winograd;
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016), and transforms
before and after them. The C++ code in `native` keeps all of it in the cache: two to four times as
fast as oneDNN's direct convolution in the same precision. Where bfloat16 numbers are multiplied it
rounds more, five times as much in a layer; gradients, which sixteen layers round anyway, lose
little by it. Where a processor multiplies float32 faster, only results are rounded.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.perturb import native_code

_OUTPUTS = 4
POINTS = 36  # products that a tile takes for each pair of channels
# Input and output channels come in multiples of what is multiplied at once.
_MULTIPLE = 16


class WinogradConvolution(nn.Module):
    """Takes the place of a convolution whose weights are fixed; `refresh` after they changed.

    It gives gradients with respect to its input, and no second derivatives.

    Args:
        convolution: One that `can_take`; its parameters are shared.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    forwards: Tensor | None
    backwards: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._parameters.update(convolution._parameters)
        for name in ("forwards", "backwards"):
            self.register_buffer(name, None, persistent=False)

    @staticmethod
    def can_take(module: nn.Module) -> bool:
        """Returns whether `module` is a convolution that may be faster this way."""
        return (
            isinstance(module, nn.Conv2d)
            and module.stride == module.padding == module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and module.groups == 1
            and suits(module.weight)
        )

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Transforms weights `(K, C, 3, 3)` for the precision that `self.weight` has now.

        Args:
            weight: The same weights before they were rounded.
        """
        dtype = self.weight.dtype
        if not multiplies(dtype) or weight.device.type != "cpu":
            self.forwards = self.backwards = None
            return
        factors = _format_of_factors(dtype)
        if self.forwards is None or self.forwards.dtype != factors:
            self.forwards, self.backwards = (_room_for(weight, factors) for _ in range(2))
        assert self.backwards is not None
        transform_kernels(weight, self.forwards)
        transform_kernels(weight, self.backwards, turned=True)

    def forward(self, features: Tensor) -> Tensor:
        """Convolves `(B, C, H, W)` to `(B, K, H, W)`, channels last."""
        if self.forwards is None or not pays(features):
            return F.conv2d(features, self.weight, self.bias, padding=1)
        result: Tensor = _Convolve.apply(
            features.to(self.weight.dtype), self.forwards, self.backwards, self.bias
        )
        return result


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, forwards: Tensor, backwards: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(backwards)
        result: Tensor = torch.ops.dynat_ray.winograd(features, forwards, bias)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return (
            torch.ops.dynat_ray.winograd(gradients[0], *ctx.saved_tensors, None),
            None,
            None,
            None,
        )


def suits(weight: Tensor) -> bool:
    """Returns whether these kernels `(K, C, 3, 3)` may be faster; the stride has to be 1."""
    return (
        weight.shape[2:] == (3, 3)
        and all(channels % _MULTIPLE == 0 for channels in weight.shape[:2])
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and _library() is not None
    )


def transformed_kernels(weight: Tensor, dtype: torch.dtype, *, turned: bool = False) -> Tensor:
    """Returns what the operator `winograd` takes for kernels, see `transform_kernels`.

    Args:
        weight: `(K, C, 3, 3)`, float32.
        dtype: Of the images.
        turned: See there.
    """
    kernels = _room_for(weight, _format_of_factors(dtype))
    transform_kernels(weight, kernels, turned=turned)
    return kernels


def transform_kernels(weight: Tensor, to: Tensor, *, turned: bool = False) -> None:
    """Transforms kernels for the operator `winograd`.

    Args:
        weight: `(K, C, 3, 3)`, float32.
        to: `(36 * C * K,)`, in the format that is multiplied.
        turned: Those of the gradient with respect to the input, which is a convolution too: with
            channels exchanged and kernels turned round.
    """
    weight = weight.float()
    filters, channels = weight.shape[:2]
    first, (filter_, channel, row, column) = weight.data_ptr(), weight.stride()
    if turned:
        first += weight.element_size() * 2 * (row + column)
        filters, channels, filter_, channel = channels, filters, channel, filter_
        row, column = -row, -column
    _function("transform_kernels", to.dtype, to.dtype)(
        first, filter_, channel, row, column, to.data_ptr(), channels, filters,
        torch.get_num_threads(),
    )  # fmt: skip


def _room_for(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(POINTS * weight.shape[0] * weight.shape[1], dtype=dtype)


def _convolved(features: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves `(B, C, H, W)` to `(B, K, H, W)` by transformed kernels `(36 * C * K,)`."""
    features = features.contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = features.shape
    result = _empty_result(features, kernels, bias)
    offsets = None if bias is None else bias.float()
    _function("convolve", features.dtype, kernels.dtype)(
        features.data_ptr(),
        kernels.data_ptr(),
        None if offsets is None else offsets.data_ptr(),
        result.data_ptr(),
        samples,
        height,
        width,
        channels,
        result.shape[1],
        torch.get_num_threads(),
    )
    return result


def _empty_result(features: Tensor, kernels: Tensor, bias: Tensor | None) -> Tensor:
    samples, channels, height, width = features.shape
    shape = (samples, kernels.numel() // (POINTS * channels), height, width)
    return torch.empty(
        shape,
        dtype=features.dtype,
        device=features.device,
        memory_format=torch.channels_last,
    )


def _weight_gradient(features: Tensor, upstream: Tensor) -> Tensor:
    """Returns the gradient `(K, C, 3, 3)`, float32, for inputs `(B, C, H, W)`.

    Args:
        features: What was convolved.
        upstream: Gradient `(B, K, H, W)` of the outputs, in the same precision.
    """
    assert features.dtype == upstream.dtype
    features = features.contiguous(memory_format=torch.channels_last)
    upstream = upstream.contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = features.shape
    result = _empty_gradient(features, upstream)
    _function("weight_gradient", features.dtype, _format_of_factors(features.dtype))(
        features.data_ptr(),
        upstream.data_ptr(),
        result.data_ptr(),
        samples,
        height,
        width,
        channels,
        upstream.shape[1],
        torch.get_num_threads(),
    )
    return result


def _empty_gradient(features: Tensor, upstream: Tensor) -> Tensor:
    shape = (upstream.shape[1], features.shape[1], 3, 3)
    return torch.empty(shape, device=features.device, memory_format=torch.channels_last)


# Operators of PyTorch, so that compilers can have them in their graphs and profiles name them.
_CONVOLUTION, _GRADIENT = "dynat_ray::winograd", "dynat_ray::winograd_weight_gradient"
torch.library.define(_CONVOLUTION, "(Tensor features, Tensor kernels, Tensor? bias) -> Tensor")
torch.library.impl(_CONVOLUTION, "CPU", _convolved)
torch.library.register_fake(_CONVOLUTION, _empty_result)
torch.library.define(_GRADIENT, "(Tensor features, Tensor upstream) -> Tensor")
torch.library.impl(_GRADIENT, "CPU", _weight_gradient)
torch.library.register_fake(_GRADIENT, _empty_gradient)


def tiles(height: int, width: int) -> int:
    """Returns how many tiles, which are multiplied one by one, cover `height` x `width` outputs."""
    return -(-height // _OUTPUTS) * -(-width // _OUTPUTS)


def pays(features: Tensor) -> bool:
    """Returns whether at least half of what the tiles cover is image."""
    height, width = features.shape[2:]
    return 2 * height * width >= tiles(height, width) * _OUTPUTS**2


def multiplies(dtype: torch.dtype) -> bool:
    """Returns whether numbers of that format are convolved here, and faster so."""
    # Processors with AMX multiply bfloat16 several times as fast in direct convolutions.
    slow = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return not slow and _function("convolve", dtype, dtype) is not None


def rounds_factors(dtype: torch.dtype) -> bool:
    """Returns whether transformed numbers are rounded too, and not outputs alone."""
    return dtype == _format_of_factors(dtype) != torch.float32


@cache
def _format_of_factors(dtype: torch.dtype) -> torch.dtype:
    """Returns in which format numbers of `dtype` are multiplied."""
    library = _library()
    assert library is not None
    if dtype == torch.bfloat16 and not library.multiplies_bfloat16_fast():
        return torch.float32
    return dtype


@cache
def _function(name: str, dtype: torch.dtype, factors: torch.dtype) -> Any:
    arguments = {
        "transform_kernels": "pnnnnpnni",
        "convolve": "ppppnnnnni",
        "weight_gradient": "pppnnnnni",
    }[name]
    return native_code.function(_library(), name, arguments, dtype, factors)


@cache
def _library() -> ctypes.CDLL | None:
    return native_code.library("winograd")
