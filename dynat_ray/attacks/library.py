"""How attacks of pyautoattack are run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.perturb.threat import finite


def logits_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Returns the model as the library calls it: images `(B, C, H, W)` to logits `(B, K)`."""

    # The library works on contiguous images; convolutions are faster on channels_last ones. It
    # also writes into the logits, which may be views of something the model keeps. A gradient that
    # is not finite would make its images NaN under L2.
    def logits(images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        images = images.view_as(images)
        if images.requires_grad:
            images.register_hook(finite)
        answer: Tensor = model(images)
        return answer.clone()

    return logits


def run_library_attack(attack: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Returns what an attack of the library makes of images `(B, C, H, W)` with labels `(B,)`.

    The library seeds PyTorch's global generators; they are afterwards as they were.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        adversarial: Tensor = attack.perturb(images, labels)
    return adversarial
