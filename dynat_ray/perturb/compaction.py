"""Batches that shrink to the samples that still need work."""

from __future__ import annotations

import torch
from torch import Tensor

# On an accelerator a batch shrinks in so many sizes: each is a shape that kernels are chosen for.
_SIZES = 8


def places_to_keep(done: Tensor, whole: int) -> Tensor | None:
    """Returns the places of samples that are not done; on an accelerator a few others fill up.

    None while the batch would not shrink. Reads one number from the device.

    Args:
        done: `(B,)`, bool.
        whole: Samples of the batch before anything left it.
    """
    granularity = 1 if done.device.type == "cpu" else max(1, whole // _SIZES)
    size = -(-int((~done).sum()) // granularity) * granularity
    if size >= len(done):
        return None
    # Stable, so that samples keep their order and results don't depend on the granularity.
    return torch.argsort(done.to(torch.uint8), stable=True)[:size]
