"""FLOP formulas of the operators, in PyTorch's registry: of the products alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from dynat_ray.acceleration.cpu.winograd.kernels import POINTS
from dynat_ray.acceleration.cpu.winograd.operators import tiles

_POINTS_WITH_STRIDE = 81  # products of a tile; some kernels meet several numbers


@register_flop_formula(torch.ops.dynat_ray.winograd)
def _convolution(
    features: Sequence[int], kernels: Sequence[int], bias: Any, stride: int = 1, **_: Any
) -> int:
    """Returns the FLOPs of each tile's products with all transformed kernels."""
    samples, _channels, height, width = features
    count = samples * tiles(-(-height // stride), -(-width // stride))
    points = POINTS if stride == 1 else _POINTS_WITH_STRIDE
    return 2 * count * kernels[0] * points // POINTS


@register_flop_formula(torch.ops.dynat_ray.winograd_strided_gradient)
def _strided_gradient(upstream: Sequence[int], kernels: Sequence[int], *_: Any, **__: Any) -> int:
    """Returns the same for the gradient with respect to images that were convolved in strides."""
    count = upstream[0] * tiles(*upstream[2:])
    return 2 * count * kernels[0] * _POINTS_WITH_STRIDE // POINTS


@register_flop_formula(torch.ops.dynat_ray.winograd_weight_gradient)
def _weight_gradient(features: Sequence[int], upstream: Sequence[int], *_: Any, **__: Any) -> int:
    """Returns the same for the gradient with respect to kernels."""
    samples, channels, height, width = features
    return 2 * samples * tiles(height, width) * POINTS * channels * upstream[1]
