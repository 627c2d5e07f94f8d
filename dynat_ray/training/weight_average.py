"""The moving average of the weights that `train.ema_decay` asks for."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import nn

from dynat_ray.training.finiteness import finite_flags


class FiniteAverage(ModelEmaV3):
    """timm's average, with the decay that was asked for, and of finite weights alone.

    After t steps the weights of step s count `d^(t-s) / sum_k d^k`: the initial ones count nothing
    (the bias correction of Adam, Kingma and Ba, ICLR 2015). timm's own warm-up needs 31,600 steps
    to reach a decay of 0.999, more than most runs have.
    """

    def get_decay(self, step: int | None = None) -> float:
        """Returns how much of the average stays: `d (1 - d^t) / (1 - d^(t+1))`.

        Args:
            step: `t`, the optimiser steps before this one; None: any number of them.
        """
        if step is None:
            return float(self.decay)
        before: float = 1 - self.decay**step
        return float(self.decay) * before / (1 - self.decay ** (step + 1))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int | None = None) -> None:
        """Moves the average towards the weights and buffers of `model`, without waiting.

        Args:
            model: What is averaged.
            step: Optimiser steps before this one.
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
