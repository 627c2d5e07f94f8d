"""Convolutions of 3 x 3 and their gradients by Winograd's algorithm, on a CPU.

Four by four outputs at once take 36 products for each pair of channels instead of 144 (Winograd;
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016), or 81 with a stride
of 2, and transforms before and after them. The C++ code in `native` keeps all of it in the cache:
two to four times as fast as oneDNN's direct convolution in the same precision. Where bfloat16
numbers are multiplied it rounds more, five times as much in a layer; gradients, which sixteen
layers round anyway, lose little by it. Where a processor multiplies float32 faster, only results
are rounded.
"""

from __future__ import annotations

import ctypes
import math
import threading
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.perturb import native_code

_OUTPUTS = 4
POINTS = 36  # to which kernels are transformed
# Input and output channels come in multiples of what is multiplied at once.
_MULTIPLE = 16
_MULTIPLE_IN_FLOAT16 = 32
_CHANNELS_OF_IMAGES = 4  # at most
_kept = threading.local()
_LARGEST_IN_FLOAT16 = 2.0**-3  # of kernels; `halves.h` counts on it
_FEWEST_CHANNELS_IN_STRIDES = 128  # in float32; with less, transforms take what products spare


class WinogradConvolution(nn.Module):
    """Takes the place of a convolution whose weights are fixed; `refresh` after they changed.

    It gives gradients with respect to its input, and no second derivatives.

    Args:
        convolution: One that `can_take`; its parameters are shared.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    stride: int
    forwards: Tensor | None
    backwards: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._parameters.update(convolution._parameters)
        self.stride = convolution.stride[0]
        for name in ("forwards", "backwards"):
            self.register_buffer(name, None, persistent=False)

    @staticmethod
    def can_take(module: nn.Module) -> bool:
        """Returns whether `module` is a convolution that may be faster this way."""
        return (
            isinstance(module, nn.Conv2d)
            and module.stride in ((1, 1), (2, 2))
            and module.padding == module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and module.groups == 1
            and suits(module.weight, of_images=_sees_images(module))
        )

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Transforms weights `(K, C, 3, 3)` for the precision that `self.weight` has now.

        Args:
            weight: The same weights before they were rounded.
        """
        dtype = self.weight.dtype
        faster = multiplies(dtype) and (
            self.stride == 1 or strides_pay(dtype, min(weight.shape[:2]))
        )
        if not faster or weight.device.type != "cpu":
            self.forwards = self.backwards = None
            return
        # Of images, few channels are filled up: that pays for their gradient alone.
        images = _sees_images(self)
        if images:
            weight = _filled_up(weight, _MULTIPLE_IN_FLOAT16)
            if _format_in_attacks(weight, dtype) != torch.float16:
                weight = weight[:, :_MULTIPLE]
        factors = _format_in_attacks(weight, dtype)
        if self.backwards is None or self.backwards.dtype != factors:
            size = _size_of_kernels(weight, factors)
            self.backwards = torch.empty(size, dtype=factors)
            self.forwards = None if images else torch.empty(size, dtype=factors)
        transform_kernels(weight, self.backwards, stride=self.stride, turned=True)
        if self.forwards is not None:
            transform_kernels(weight, self.forwards, stride=self.stride)

    def forward(self, features: Tensor) -> Tensor:
        """Convolves `(B, C, H, W)` to `(B, K, H, W)`, channels last."""
        if self.backwards is None or not pays(features, self.stride):
            return F.conv2d(features, self.weight, self.bias, self.stride, padding=1)
        features = features.to(self.weight.dtype)
        result: Tensor
        if self.forwards is None:
            result = _ConvolveImages.apply(features, self.weight, self.backwards, self.bias)
        else:
            result = _Convolve.apply(
                features, self.forwards, self.backwards, self.bias, self.stride
            )
        return result


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        forwards: Tensor,
        backwards: Tensor,
        bias: Tensor | None,
        stride: int,
    ) -> Tensor:
        ctx.save_for_backward(backwards)
        ctx.stride, ctx.size = stride, features.shape[2:]
        result: Tensor = torch.ops.dynat_ray.winograd(features, forwards, bias, stride)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kernels,) = ctx.saved_tensors
        if ctx.stride == 1:
            gradient = torch.ops.dynat_ray.winograd(gradients[0], kernels, None)
        else:
            gradient = torch.ops.dynat_ray.winograd_strided_gradient(
                gradients[0], kernels, *ctx.size
            )
        return gradient, None, None, None, None


class _ConvolveImages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, backwards: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(backwards)
        ctx.channels = images.shape[1]
        return F.conv2d(images, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kernels,) = ctx.saved_tensors
        filled_up = torch.ops.dynat_ray.winograd(gradients[0], kernels, None)
        return filled_up[:, : ctx.channels], None, None, None


def _sees_images(convolution: nn.Module) -> bool:
    """Returns whether a convolution's inputs are images, of few channels, or like them."""
    weight = convolution.weight
    assert isinstance(weight, Tensor)
    return convolution.stride in (1, (1, 1)) and weight.shape[1] <= _CHANNELS_OF_IMAGES


def _filled_up(weight: Tensor, channels: int) -> Tensor:
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


def suits(weight: Tensor, *, of_images: bool = False) -> bool:
    """Returns whether these kernels `(K, C, 3, 3)` may be faster.

    Args:
        weight: The kernels.
        of_images: Their channels will be filled up.
    """
    filled = weight.shape[:1] if of_images else weight.shape[:2]
    return (
        weight.shape[2:] == (3, 3)
        and all(channels % _MULTIPLE == 0 for channels in filled)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and _library() is not None
    )


def transformed_kernels(
    weight: Tensor, dtype: torch.dtype, *, stride: int = 1, turned: bool = False
) -> Tensor:
    """Returns what the operator `winograd` takes for kernels, until this is called again.

    Args:
        weight: `(K, C, 3, 3)`, float32.
        dtype: Of the images.
        stride: 1 or 2.
        turned: See `transform_kernels`.
    """
    # New memory of that size would come from the system, page by page: four times as slow.
    rooms = _kept.__dict__
    # Gradients may round sums too, as an attack's do.
    factors = _format_in_attacks(weight, dtype) if turned else _format_in_training(dtype)
    size = _size_of_kernels(weight, factors)
    if str(factors) not in rooms or len(rooms[str(factors)]) < size:
        rooms[str(factors)] = torch.empty(size, dtype=factors)
    kernels: Tensor = rooms[str(factors)][:size]
    transform_kernels(weight, kernels, stride=stride, turned=turned)
    return kernels


def transform_kernels(weight: Tensor, to: Tensor, *, stride: int = 1, turned: bool = False) -> None:
    """Transforms kernels for the operator `winograd`.

    Args:
        weight: `(K, C, 3, 3)`, float32.
        to: `(36 * C * K,)`, in the format that is multiplied; in float16 a few numbers longer.
        stride: 1 or 2.
        turned: Those of the gradient with respect to the input, which is a convolution too: with
            channels exchanged and kernels turned round.
    """
    weight = weight.float()
    scale = 1.0
    if to.dtype == torch.float16:
        # Several times as fast on numbers that lie side by side.
        side_by_side = weight.permute(0, 2, 3, 1) if weight.stride(1) == 1 else weight
        _, exponent = math.frexp(torch.stack(torch.aminmax(side_by_side)).abs().max())
        scale = math.ldexp(_LARGEST_IN_FLOAT16, -exponent)
    filters, channels = weight.shape[:2]
    first, (filter_, channel, row, column) = weight.data_ptr(), weight.stride()
    if turned:
        first += weight.element_size() * 2 * (row + column)
        filters, channels, filter_, channel = channels, filters, channel, filter_
        row, column = -row, -column
    images = torch.bfloat16 if to.dtype == torch.float16 else to.dtype
    _function("transform_kernels", images, to.dtype)(
        first, filter_, channel, row, column, scale, to.data_ptr(), channels, filters, stride,
        torch.get_num_threads(),
    )  # fmt: skip


def _size_of_kernels(weight: Tensor, factors: torch.dtype) -> int:
    scale = 2 if factors == torch.float16 else 0  # numbers, for one in float32
    return POINTS * weight.shape[0] * weight.shape[1] + scale


def _convolved(features: Tensor, kernels: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """Convolves `(B, C, H, W)` to `(B, K, H / stride, W / stride)`, rounded up.

    Args:
        features: The images.
        kernels: Transformed ones, `(36 * C * K,)`.
        bias: `(K,)`.
        stride: 1 or 2.
    """
    features = features.contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = features.shape
    result = _empty_result(features, kernels, bias, stride)
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
        stride,
        torch.get_num_threads(),
    )
    return result


def _empty_result(
    features: Tensor, kernels: Tensor, bias: Tensor | None, stride: int = 1
) -> Tensor:
    samples, channels, height, width = features.shape
    size = (-(-height // stride), -(-width // stride))
    return _empty_images(features, samples, kernels.numel() // (POINTS * channels), *size)


def _empty_images(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def _strided_gradient(upstream: Tensor, kernels: Tensor, height: int, width: int) -> Tensor:
    """Returns the gradient `(B, C, H, W)` of what was convolved with a stride of 2.

    Args:
        upstream: Gradient of the outputs, `(B, K, H / 2, W / 2)`, rounded up.
        kernels: Transformed ones, `(36 * C * K,)`, turned.
        height: H.
        width: W.
    """
    upstream = upstream.contiguous(memory_format=torch.channels_last)
    result = _empty_strided_gradient(upstream, kernels, height, width)
    _function("strided_gradient", upstream.dtype, kernels.dtype)(
        upstream.data_ptr(),
        kernels.data_ptr(),
        result.data_ptr(),
        len(result),
        height,
        width,
        result.shape[1],
        upstream.shape[1],
        torch.get_num_threads(),
    )
    return result


def _empty_strided_gradient(upstream: Tensor, kernels: Tensor, height: int, width: int) -> Tensor:
    samples, filters = upstream.shape[:2]
    return _empty_images(upstream, samples, kernels.numel() // (POINTS * filters), height, width)


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
    _function("weight_gradient", features.dtype, _format_in_training(features.dtype))(
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
for _name, _arguments, _implementation, _shape in (
    (
        "winograd",
        "Tensor features, Tensor kernels, Tensor? bias, int stride=1",
        _convolved,
        _empty_result,
    ),
    (
        "winograd_strided_gradient",
        "Tensor upstream, Tensor kernels, SymInt height, SymInt width",
        _strided_gradient,
        _empty_strided_gradient,
    ),
    (
        "winograd_weight_gradient",
        "Tensor features, Tensor upstream",
        _weight_gradient,
        _empty_gradient,
    ),
):
    torch.library.define(f"dynat_ray::{_name}", f"({_arguments}) -> Tensor")
    torch.library.impl(f"dynat_ray::{_name}", "CPU", _implementation)
    torch.library.register_fake(f"dynat_ray::{_name}", _shape)


def products(stride: int) -> int:
    """Returns how many products a tile takes for each pair of channels."""
    return POINTS if stride == 1 else 81  # some kernels meet several numbers


def tiles(height: int, width: int) -> int:
    """Returns how many tiles, which are multiplied one by one, cover `height` x `width` outputs."""
    return -(-height // _OUTPUTS) * -(-width // _OUTPUTS)


def pays(features: Tensor, stride: int = 1) -> bool:
    """Returns whether at least half of what the tiles cover is image."""
    height, width = (-(-side // stride) for side in features.shape[2:])
    return 2 * height * width >= tiles(height, width) * _OUTPUTS**2


def multiplies(dtype: torch.dtype) -> bool:
    """Returns whether numbers of that format are convolved here, and faster so."""
    # Processors with AMX multiply bfloat16 several times as fast in direct convolutions.
    slow = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return not slow and _function("convolve", dtype, dtype) is not None


def rounds_factors(dtype: torch.dtype) -> bool:
    """Returns whether transformed numbers are rounded too, and not outputs alone."""
    return dtype == _format_in_training(dtype) != torch.float32


def strides_pay(dtype: torch.dtype, channels: int) -> bool:
    """Returns whether convolutions with a stride of 2 are faster this way."""
    if dtype == torch.float32:
        return channels >= _FEWEST_CHANNELS_IN_STRIDES
    # Where bfloat16 factors are fast, direct ones are too, and nobody has measured which wins.
    return not rounds_factors(dtype)


@cache
def _format_in_training(dtype: torch.dtype) -> torch.dtype:
    """Returns in which format numbers of `dtype` are multiplied."""
    library = _library()
    assert library is not None
    if dtype == torch.bfloat16 and not library.multiplies_bfloat16_fast():
        return torch.float32
    return dtype


def _format_in_attacks(weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Returns in which format they are multiplied where sums may be rounded too."""
    factors = _format_in_training(dtype)
    if (
        factors != dtype
        and all(channels % _MULTIPLE_IN_FLOAT16 == 0 for channels in weight.shape[:2])
        and _function("convolve", dtype, torch.float16) is not None
    ):
        return torch.float16
    return factors


@cache
def _function(name: str, dtype: torch.dtype, factors: torch.dtype) -> Any:
    arguments = {
        "transform_kernels": "pnnnnfpnnii",
        "convolve": "ppppnnnnnii",
        "strided_gradient": "pppnnnnni",
        "weight_gradient": "pppnnnnni",
    }[name]
    return native_code.function(_library(), name, arguments, dtype, factors)


@cache
def _library() -> ctypes.CDLL | None:
    return native_code.library("winograd")
