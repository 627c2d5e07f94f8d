"""A model as evaluation must see it: eval mode, fixed parameters, exact float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dynat_ray.perturb.frozen import frozen


def device_of(model: nn.Module) -> torch.device:
    """Returns where the model's weights are (the CPU for a model without any)."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


@contextmanager
def exact(model: nn.Module) -> Iterator[nn.Module]:
    """Gives the model for evaluation and leaves it afterwards as it was.

    Inside: eval mode, parameters without gradients, no autocast, no TF32, and cuDNN takes
    deterministic kernels, so that a shard comes out the same wherever and whenever it is done. A
    model in half precision is copied to float32.
    """
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        model = copy.deepcopy(model).float()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = False
        cudnn.deterministic = True
        with frozen(model), torch.autocast(device_of(model).type, enabled=False):
            yield model
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
