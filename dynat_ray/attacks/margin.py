"""How sure a model is of the true class without an attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.attacks.probes import Measured, Probe
from dynat_ray.attacks.stages import Setting
from dynat_ray.perturb.signals import signed_gap


@dataclass(frozen=True)
class CleanMargin(Probe):
    """`p_y - max_{k != y} p_k` of the clean image, in [-1, 1]; negative where it is wrong."""

    name: str = "margin"
    costly: bool = False

    def measure(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        at: Setting,
        positions: NDArray[np.int64],
    ) -> Measured:
        with torch.no_grad():
            logits = model(images).double()
        return Measured(logits.argmax(dim=1), signed_gap(logits.softmax(dim=1), labels))
