"""GAIRAT (Zhang et al., "Geometry-aware instance-reweighted adversarial training", ICLR 2021).

Ours: weights begin once half of the run is over (the authors' epoch 60 of 120) *and* half of the
training images withstood the attack in the epoch before, as at the authors' start. In a short run,
in which few do, weights would lie on the samples that are wrong anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.collectives import sum_over_workers
from dynat_ray.data import Batch
from dynat_ray.method_settings.weights import GAIRATSettings
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.epoch_accuracy import EpochAccuracy
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.models import Classifier
from dynat_ray.perturb.signals import predicted_classes

_ROUNDING = 1e-9


@register
class GAIRAT(Method[GAIRATSettings]):
    """PGD-AT whose samples weigh more the fewer steps they withstand.

    `w_i = (1 + tanh(lambda + 5 (1 - 2 kappa_i / K))) / 2`, normalised to mean 1, where of the K
    points that the attack starts a step from `kappa_i` are still classified correctly.
    """

    settings_class = GAIRATSettings

    def __init__(self, settings: GAIRATSettings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.accuracy = EpochAccuracy()
        self._weighs = False

    def attach(self, network: Classifier) -> None:
        self.accuracy.to(network.mean.device)

    def start_epoch(self, epoch: int, progress: float) -> None:
        super().start_epoch(epoch, progress)
        self.accuracy.start_epoch(epoch)
        # The epoch at whose end the start is reached has weights, as in the authors' code.
        at_its_end = progress * (epoch + 1) / epoch if epoch else 0.0
        late = at_its_end + _ROUNDING >= self.settings.start
        self._weighs = late and self.accuracy.last >= self.settings.start_accuracy

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        outcome = self.attack(network, batch, keys, "ce")
        record = attack_record(outcome, batch.main_labels)
        self.accuracy.add(predicted_classes(outcome.logits) == batch.main_labels)
        record["weight"] = weights = self._weights(outcome.survived)
        return Prepared(batch, outcome.images, weights, record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        return adversarial_loss(self, network, prepared)

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.accuracy.load_state_dict(state["accuracy"])

    def _weights(self, survived: Tensor) -> Tensor:
        if not self._weighs:
            return torch.ones(len(survived), device=survived.device)
        distance = survived.float() / max(1, self.steps)
        weights = (1 + (self.settings.shift + 5 * (1 - 2 * distance)).tanh()) / 2
        sums = torch.stack([weights.sum(), torch.ones_like(weights).sum()])
        total, count = sum_over_workers(sums).unbind()
        return weights * count / total.clamp(min=1e-12)
