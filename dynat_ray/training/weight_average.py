"""The moving average of the weights that `train.ema_decay` asks for."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn

from dynat_ray.training.finiteness import finite_flags


class FiniteAverage(ModelEmaV3):
    """timm's average, which takes in weights only while all of them are finite."""

    @torch.no_grad()
    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Moves the average towards the weights and buffers of `model`, without waiting.

        Args:
            model: What is averaged.
            step: Optimiser steps before this one, for the warm-up of the decay.
        """
        averages, values = self.module.state_dict().values(), model.state_dict().values()
        pairs = list(zip(averages, values, strict=True))
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        finite = finite_flags([new for _, new in moving if new.numel()]).all()
        if finite.device.type == "cpu" and not bool(finite):
            return
        targets = [new for _, new in moving]
        if finite.device.type != "cpu":
            targets = [torch.where(finite, new, old) for old, new in moving]
        torch._foreach_lerp_([old for old, _ in moving], targets, weight=1 - self.get_decay(step))
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)
