"""Kernels, transformed for the operators."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from dynat_ray.acceleration.cpu.winograd import formats

POINTS = 36  # to which kernels are transformed
_LARGEST_IN_FLOAT16 = 2.0**-3  # of kernels; `halves.h` counts on it
_LARGEST_EXPONENT = 126  # of a scale, whose inverse is a float32 number too


class _Rooms(threading.local):
    def __init__(self) -> None:
        self.by_format: dict[torch.dtype, Tensor] = {}


_rooms = _Rooms()


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
    # Gradients may round sums too, as an attack's do.
    factors = formats.in_attacks(weight, dtype) if turned else formats.in_training(dtype)
    size = size_of_kernels(weight, factors)
    room = _rooms.by_format.get(factors)
    # New memory of that size would come from the system, page by page: four times as slow.
    if room is None or len(room) < size:
        room = _rooms.by_format[factors] = torch.empty(size, dtype=factors)
    kernels = room[:size]
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
        scale = math.ldexp(_LARGEST_IN_FLOAT16, min(-exponent, _LARGEST_EXPONENT))
    filters, channels = weight.shape[:2]
    first, (filter_, channel, row, column) = weight.data_ptr(), weight.stride()
    if turned:
        first += weight.element_size() * 2 * (row + column)
        filters, channels, filter_, channel = channels, filters, channel, filter_
        row, column = -row, -column
    images = torch.bfloat16 if to.dtype == torch.float16 else to.dtype
    formats.function("transform_kernels", images, to.dtype)(
        first, filter_, channel, row, column, scale, to.data_ptr(), channels, filters, stride,
        torch.get_num_threads(),
    )  # fmt: skip


def size_of_kernels(weight: Tensor, factors: torch.dtype) -> int:
    """Returns how many numbers the transformed kernels are, for weights `(K, C, 3, 3)`."""
    scale = 2 if factors == torch.float16 else 0  # numbers, for one in float32
    return POINTS * weight.shape[0] * weight.shape[1] + scale
