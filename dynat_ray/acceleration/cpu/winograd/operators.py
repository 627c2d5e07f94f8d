"""Operators of PyTorch, so that compilers can have them in their graphs and profiles name them."""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray.acceleration.cpu.winograd import formats
from dynat_ray.acceleration.cpu.winograd.kernels import POINTS

OUTPUTS = 4


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
    formats.function("convolve", features.dtype, kernels.dtype)(
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
    formats.function("strided_gradient", upstream.dtype, kernels.dtype)(
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


def _weight_gradient(
    features: Tensor, upstream: Tensor, factors: torch.dtype | None = None
) -> Tensor:
    """Returns the gradient `(K, C, 3, 3)`, float32, for inputs `(B, C, H, W)`.

    Args:
        features: What was convolved.
        upstream: Gradient `(B, K, H, W)` of the outputs, in the same precision.
        factors: In which format they are multiplied; None: as in training.
    """
    assert features.dtype == upstream.dtype
    features = features.contiguous(memory_format=torch.channels_last)
    upstream = upstream.contiguous(memory_format=torch.channels_last)
    samples, channels, height, width = features.shape
    result = _empty_gradient(features, upstream)
    factors = factors or formats.in_training(features.dtype)
    formats.function("weight_gradient", features.dtype, factors)(
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


def _empty_gradient(
    features: Tensor, upstream: Tensor, factors: torch.dtype | None = None
) -> Tensor:
    shape = (upstream.shape[1], features.shape[1], 3, 3)
    return torch.empty(shape, device=features.device, memory_format=torch.channels_last)


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
        "Tensor features, Tensor upstream, ScalarType? factors=None",
        _weight_gradient,
        _empty_gradient,
    ),
):
    torch.library.define(f"dynat_ray::{_name}", f"({_arguments}) -> Tensor")
    torch.library.impl(f"dynat_ray::{_name}", "CPU", _implementation)
    torch.library.register_fake(f"dynat_ray::{_name}", _shape)


def tiles(height: int, width: int) -> int:
    """Returns how many tiles, which are multiplied one by one, cover `height` x `width` outputs."""
    return -(-height // OUTPUTS) * -(-width // OUTPUTS)
