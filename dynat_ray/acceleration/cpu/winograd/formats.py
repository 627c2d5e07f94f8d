"""In which format numbers are multiplied, and what the C++ code is compiled to."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dynat_ray.acceleration.cpu import native_code

# Input and output channels come in multiples of what is multiplied at once.
MULTIPLE = 16
MULTIPLE_IN_FLOAT16 = 32


def multiplies(dtype: torch.dtype) -> bool:
    """Returns whether numbers of that format are convolved here, and faster so."""
    # Processors with AMX multiply bfloat16 several times as fast in direct convolutions.
    slow = dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    return not slow and function("convolve", dtype, dtype) is not None


def rounds_factors(dtype: torch.dtype) -> bool:
    """Returns whether transformed numbers are rounded too, and not outputs alone."""
    return dtype == in_training(dtype) != torch.float32


@cache
def in_training(dtype: torch.dtype) -> torch.dtype:
    """Returns in which format numbers of `dtype` are multiplied in training."""
    compiled = library()
    assert compiled is not None
    if dtype == torch.bfloat16 and not compiled.multiplies_bfloat16_fast():
        return torch.float32
    return dtype


def in_attacks(weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Returns in which they are where sums may be rounded too, as gradients in training may."""
    factors = in_training(dtype)
    if (
        factors != dtype
        and all(channels % MULTIPLE_IN_FLOAT16 == 0 for channels in weight.shape[:2])
        and function("convolve", dtype, torch.float16) is not None
    ):
        return torch.float16
    return factors


@cache
def function(name: str, dtype: torch.dtype, factors: torch.dtype) -> Any:
    """Returns a compiled function for images of `dtype`; None if there is none.

    Args:
        name: Of the function in C++, without its ending.
        dtype: Of the images.
        factors: In which they are multiplied.
    """
    arguments = {
        "transform_kernels": "pnnnnfpnnii",
        "convolve": "ppppnnnnnii",
        "strided_gradient": "pppnnnnni",
        "weight_gradient": "pppnnnnni",
    }[name]
    return native_code.function(library(), name, arguments, dtype, factors)


@cache
def library() -> ctypes.CDLL | None:
    """Returns the compiled code; None where there is none."""
    return native_code.library("winograd")
