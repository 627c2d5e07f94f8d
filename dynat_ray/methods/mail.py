"""MAIL (Liu et al., "Probabilistic margins for instance reweighting in adversarial training",
NeurIPS 2021); constants as in the authors' code, which multiplies by 3 where the paper normalises.

Ours: the start is a part of the run (0.625 is the authors' epoch 75 of 120), `trades` is the
default objective (the best of the three under AutoAttack in the paper).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.weights import MAILSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.mart import mart_terms
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record
from dynat_ray.perturb.objectives import kl_divergence
from dynat_ray.perturb.signals import adversarial_gap

_SCALE = 3.0
# Slope and bias of the sigmoid, by objective.
_SIGMOIDS = {"at": (10.0, -0.5), "trades": (2.0, 0.0), "mart": (2.0, 0.0)}


@register
class MAIL(Method[MAILSettings]):
    """Weighs by `w = 3 sigmoid(slope (PM + bias))`, `PM = max_{k != y} p'_k - p'_y`, detached."""

    settings_class = MAILSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        if self.settings.objective == "trades":
            clean_logits = self.clean_logits(network, batch.images)
            outcome = self.attack(network, batch, keys, "kl", clean_logits=clean_logits)
        else:
            outcome = self.attack(network, batch, keys, "ce", start="gaussian")
        record = attack_record(outcome, batch.main_labels)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        settings, batch = self.settings, prepared.batch
        adversarial_logits = network(prepared.adversarial).float()
        weights = self._weights(adversarial_logits.detach(), batch.main_labels)
        record = {"weight": weights}
        if settings.objective == "at":
            losses = self.cross_entropies(adversarial_logits, batch)
            return MethodLoss(
                (losses * weights).mean(), record | {"adversarial_loss": losses.detach()}
            )
        clean_logits = network(batch.images).float()
        if settings.objective == "mart":
            terms = mart_terms(self, batch, clean_logits, adversarial_logits)
            loss = (terms.boosted * weights).mean() + settings.beta * terms.consistency.mean()
            return MethodLoss(loss, record | terms.record)
        clean = self.cross_entropies(clean_logits, batch)
        kl = kl_divergence(clean_logits.log_softmax(dim=1), adversarial_logits.log_softmax(dim=1))
        record |= {
            "predicted": clean_logits.detach().argmax(dim=1),
            "clean_loss": clean.detach(),
            "kl": kl.detach(),
            "adversarial_loss": self.cross_entropies(adversarial_logits.detach(), batch),
        }
        return MethodLoss(clean.mean() + settings.beta * (kl * weights).mean(), record)

    def _weights(self, logits: Tensor, labels: Tensor) -> Tensor:
        margin = adversarial_gap(logits, labels)
        if self.progress < self.settings.start:
            return torch.ones_like(margin)
        slope, bias = _SIGMOIDS[self.settings.objective]
        slope = slope if self.settings.slope is None else self.settings.slope
        bias = bias if self.settings.bias is None else self.settings.bias
        return _SCALE * (slope * (margin + bias)).sigmoid()
