"""IAAT: instance adaptive adversarial training (Balaji, Goldstein and Hoffman, arXiv 1910.08051).

Ours: budgets and `gamma` are multiples of eps (0.2375 is the authors' 1.9/255 at 8/255), a step is
in proportion to its budget, and the budgets that an epoch reads are those at the end of the one
before (`SampleMemory`). So that a short run is like the authors' of 110 epochs, the warm-up is a
part of it (0.09: 10 epochs) and lasts until half of the training images are classified correctly,
and what is remembered follows as often over in what is left of the run: their rate of 0.1 an epoch
is 10 in the 100 epochs after the warm-up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.data import Batch
from dynat_ray.method_settings.budgets import IAATSettings
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.epoch_accuracy import EpochAccuracy
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.methods.sample_memory import SampleMemory
from dynat_ray.models import Classifier
from dynat_ray.perturb.signals import predicted_classes


@register
class IAAT(Method[IAATSettings]):
    """PGD-AT with a budget per sample that grows while the sample withstands a larger one.

    Three attacks a step: at the budget, beyond it, and at the new one.
    """

    settings_class = IAATSettings

    def __init__(self, settings: IAATSettings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.memory = SampleMemory(context.training_samples, initial=1.0)
        self.accuracy = EpochAccuracy()
        self._warming, self._rate = True, 1.0

    def attach(self, network: Classifier) -> None:
        self.memory.to(network.mean.device)
        self.accuracy.to(network.mean.device)

    def start_epoch(self, epoch: int, progress: float) -> None:
        super().start_epoch(epoch, progress)
        self.memory.start_epoch(epoch)
        self.accuracy.start_epoch(epoch)
        settings = self.settings
        early = progress < settings.warmup
        self._warming = early or self.accuracy.last < settings.warmup_accuracy
        epochs_left = (1 - settings.warmup) * epoch / progress if progress > 0 else 1.0
        self._rate = min(1.0, settings.rate / max(1.0, epochs_left))

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        record = clean_record(self.clean_logits(network, batch.images))
        correct = (record["predicted"] == batch.main_labels).float()
        self.accuracy.add(correct)
        ratios = correct
        if not self._warming:
            ratios = self._new_ratios(network, batch, keys, correct)
        self.memory.write(batch.indices, ratios)
        outcome = self.attack(network, batch, keys, "ce", ratios=ratios)
        record |= attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        return adversarial_loss(self, network, prepared)

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict(), "accuracy": self.accuracy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        self.accuracy.load_state_dict(state["accuracy"])

    def _new_ratios(
        self, network: nn.Module, batch: Batch, keys: Tensor, correct: Tensor
    ) -> Tensor:
        """Returns budgets as multiples of eps `(B,)`."""
        gamma, rate = self.settings.gamma, self._rate
        before = self.memory.read(batch.indices)
        withstood = []
        for number, ratios in enumerate((before, before + gamma), start=1):
            noise = keyed_random.combine(keys, number)
            outcome = self.attack(network, batch, noise, "ce", ratios=ratios)
            predicted = predicted_classes(self.clean_logits(network, outcome.images))
            withstood.append(predicted == batch.main_labels)
        found = torch.where(withstood[0], before, before - gamma)
        found = torch.where(withstood[1], before + gamma, found)
        return rate * (found * correct).clamp(min=0) + (1 - rate) * before
