"""GAIRAT (Zhang et al., "Geometry-aware instance-reweighted adversarial training", ICLR 2021).

Ours: the start is a part of the run (0.5 is the authors' epoch 60 of 120).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynat_ray.collectives import sum_over_workers
from dynat_ray.config import MethodSettings
from dynat_ray.data import Batch
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.value_types import ClosedUnitInterval, Finite


@dataclass(kw_only=True)
class GAIRATSettings(MethodSettings):
    """Settings of GAIRAT.

    Attributes:
        shift: `lambda` of the weight; smaller values single out fewer samples.
        start: Part of the run, in [0, 1], before which all weights are 1.
    """

    name: str = "gairat"
    shift: Finite = -1.0
    start: ClosedUnitInterval = 0.5


@register
class GAIRAT(Method[GAIRATSettings]):
    """PGD-AT whose samples weigh more the fewer steps they withstand.

    `w_i = (1 + tanh(lambda + 5 (1 - 2 kappa_i / K))) / 2`, normalised to mean 1, where of the K
    points that the attack starts a step from `kappa_i` are still classified correctly.
    """

    settings_class = GAIRATSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        record["weight"] = weights = self._weights(outcome.survived)
        return Prepared(batch, outcome.images, weights, record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        return adversarial_loss(self, network, prepared)

    def _weights(self, survived: Tensor) -> Tensor:
        if self.progress < self.settings.start:
            return torch.ones(len(survived), device=survived.device)
        distance = survived.float() / max(1, self.steps)
        weights = (1 + (self.settings.shift + 5 * (1 - 2 * distance)).tanh()) / 2
        sums = torch.stack([weights.sum(), torch.ones_like(weights).sum()])
        total, count = sum_over_workers(sums).unbind()
        return weights * count / total.clamp(min=1e-12)
