"""Exact float32, where GPUs and autocast would round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Has networks computed without autocast on `device`, and without TF32.

    By default PyTorch lets convolutions on a GPU round their inputs to TF32's ten bits.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
