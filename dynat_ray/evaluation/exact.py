"""A model as evaluation must see it: eval mode, fixed parameters, exact float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dynat_ray.acceleration.modes import frozen, in_float32
from dynat_ray.acceleration.network_copy import copied


def device_of(model: nn.Module) -> torch.device:
    """Returns where the model's weights are (the CPU for a model without any)."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def best_device() -> torch.device:
    """Returns the GPU if this process has one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_fast_format(model: nn.Module) -> nn.Module:
    """Returns the model with channels-last weights, on which convolutions are faster, if it can.

    Weights of three-dimensional convolutions can't.
    """
    if any(tensor.dim() > 4 for tensor in (*model.parameters(), *model.buffers())):
        return model
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@contextmanager
def on_cpu(model: nn.Module) -> Iterator[None]:
    """Has a model on the CPU, with no memory left on the GPU, and afterwards where it was."""
    device = device_of(model)
    model.cpu()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.to(device)


@contextmanager
def exact(model: nn.Module) -> Iterator[nn.Module]:
    """Gives the model for evaluation and leaves it afterwards as it was.

    Inside: eval mode, parameters without gradients, no autocast, no TF32, and cuDNN takes
    deterministic kernels, so that a shard comes out the same wherever and whenever it is done. A
    model in half precision is copied to float32.
    """
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model = copied(model).float()
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        with frozen(model), in_float32(device_of(model)):
            yield model
    finally:
        cudnn.deterministic, cudnn.benchmark = before
