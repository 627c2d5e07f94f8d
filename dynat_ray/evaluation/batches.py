"""Samples a few at a time, so that memory is enough."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Where nobody says.
BATCH_SIZE = 256


def in_batches(function: Callable[..., Tensor], batch_size: int, *samples: Tensor) -> Tensor:
    """Returns what a function gives for samples, computed for `batch_size` of them at a time.

    Args:
        function: Of tensors like `samples`, to one with the same first axis.
        batch_size: Most samples in a call, at least 1.
        samples: Tensors `(N, ...)`, N at least 1.
    """
    parts = zip(*(tensor.split(batch_size) for tensor in samples), strict=True)
    return torch.cat([function(*part) for part in parts])
