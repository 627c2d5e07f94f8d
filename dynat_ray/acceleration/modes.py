"""What holds in a network for a while: its mode, its parameters, its statistics, exact float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BatchNormMode = Literal["eval", "train"]


@contextmanager
def frozen(model: nn.Module, batch_norm: BatchNormMode = "eval") -> Iterator[None]:
    """Freezes `model` for the time of an attack and restores every mode and flag afterwards.

    Frozen parameters spare the backward pass its weight gradients (a third of a training pass).

    Args:
        model: The unwrapped network, so that no gradient is reduced between workers.
        batch_norm: `eval` uses running statistics; `train` the batch's, without touching the
            running ones. Everything else (dropout) is in eval mode either way.
    """
    modes = [(module, module.training) for module in model.modules()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    momenta: list[tuple[_BatchNorm, float | None]] = []
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        if batch_norm == "train":
            for module, _ in modes:
                if isinstance(module, _BatchNorm):
                    momenta.append((module, module.momentum))
                    module.momentum = 0.0
                    module.training = True
        yield
    finally:
        for normalisation, momentum in momenta:
            normalisation.momentum = momentum  # type: ignore[assignment]
        for module, mode in modes:
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def unchanged_statistics(model: nn.Module) -> Iterator[None]:
    """Keeps running statistics as they are; batches are still normalised by their own."""
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum  # type: ignore[assignment]


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


@contextmanager
def chosen_kernels() -> Iterator[None]:
    """Lets cuDNN try its kernels on every new shape and keep the fastest.

    On an H200 a PGD-10 step takes 0.9 of the time without. Some of the kernels take more memory,
    and the choice, so the rounding, may differ from run to run.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = before
