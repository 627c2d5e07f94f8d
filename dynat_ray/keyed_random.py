"""Random numbers that depend on keys alone, not on who draws them or in which order.

A sample's augmentation and attack noise are functions of (seed, epoch, index), so they are the
same for any loader, number of workers, batch composition or resumed run. The mixing function is
the 32-bit `lowbias32` finaliser (C. Wellons, "Prospecting for hash functions", 2018), evaluated
in int64 tensors on whatever device the keys are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def _mix(values: Any) -> Any:
    # An int is mixed without a tensor: what a whole batch shares costs a device nothing.
    values = ((values ^ (values >> 16)) * 0x7FEB352D) & _MASK
    values = ((values ^ (values >> 15)) * 0x846CA68B) & _MASK
    return values ^ (values >> 16)


def combine(*parts: Tensor | int) -> Tensor:
    """Returns one 32-bit key (int64 tensor) from several integers or int64 tensors that broadcast.

    Args:
        parts: Such as `(seed, epoch, indices)`, at least one of them a tensor. Order matters.
    """
    key: Tensor | int = 0
    for part in parts:
        low, high = part & _MASK, (part >> 32) & _MASK
        for word in (low, high):
            key = _mix(key * 31 + word + _GOLDEN & _MASK)
    assert isinstance(key, Tensor), "combine needs at least one tensor"
    return key


def uniform(keys: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Returns float32 numbers in [0, 1) of shape `(B, *shape)`.

    Args:
        keys: int64 `(B,)`.
        shape: Numbers per key.
        stream: Different streams of the same key are independent.
    """
    return _bits(keys, math.prod(shape), stream).view(len(keys), *shape) * 2.0**-24


def normal(keys: Tensor, *shape: int, stream: int = 0) -> Tensor:
    """Returns standard normal float32 numbers of shape `(B, *shape)` (Box and Muller)."""
    # Half a unit away from 0, so that the logarithm is finite.
    radius = (-2 * ((uniform(keys, *shape, stream=2 * stream + 1) + 2.0**-25).log())).sqrt()
    return radius * (2 * math.pi * uniform(keys, *shape, stream=2 * stream + 2)).cos()


def _bits(keys: Tensor, count: int, stream: int) -> Tensor:
    counter = torch.arange(count, device=keys.device, dtype=torch.int64)
    counter = (counter * _GOLDEN + (stream * 0x85EBCA6B & _MASK)) & _MASK
    # Two rounds: one would let keys that differ by a multiple of the counter's stride collide.
    mixed = _mix(_mix(keys[:, None] ^ counter) + keys[:, None] & _MASK)
    return (mixed >> 8).to(torch.float32)
