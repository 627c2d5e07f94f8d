"""MWPB: margin-weighted perturbation budgets (Fakorede, Atsague and Tian, "Improving adversarial
training using vulnerability-aware perturbation budget", arXiv 2403.04070).

The closest published relative of DynAT's budgets. What the paper's public reviews give: the margin
`d = p_y - max_{k != y} p_k`, budgets that grow with it, `alpha` 0.58 / 0.42 / 0.55 for three base
methods, a start at epoch 80, no cap. Ours: `eps_i = exp(alpha d) eps` with probabilities (logits
would make the factor unbounded), 0.58 for PGD-AT and 0.42 for TRADES (the order in which they are
named), a start at two thirds of the run, and a step in proportion to the budget.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.budgets import MWPBSettings
from dynat_ray.methods.base import Method, MethodLoss, Prepared
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.methods.trades import trades_loss
from dynat_ray.perturb.signals import signed_gap

_ALPHA = {"at": 0.58, "trades": 0.42}


@register
class MWPB(Method[MWPBSettings]):
    """PGD-AT or TRADES with budgets `exp(alpha d_i) eps`."""

    settings_class = MWPBSettings

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        clean_logits = self.clean_logits(network, batch.images)
        ratios = self._ratios(clean_logits, batch.main_labels)
        objective: Literal["ce", "kl"] = "ce" if self.settings.objective == "at" else "kl"
        outcome = self.attack(
            network, batch, keys, objective, ratios=ratios, clean_logits=clean_logits
        )
        record = clean_record(clean_logits)
        record |= attack_record(outcome, batch.main_labels, clean_logits)
        return Prepared(batch, outcome.images, record=record)

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        if self.settings.objective == "trades":
            return trades_loss(self, network, prepared, self.settings.beta)
        return adversarial_loss(self, network, prepared)

    def _ratios(self, clean_logits: Tensor, labels: Tensor) -> Tensor:
        margin = signed_gap(clean_logits.softmax(dim=1), labels)
        if self.progress < self.settings.start:
            return torch.ones_like(margin)
        alpha = self.settings.alpha
        return ((_ALPHA[self.settings.objective] if alpha is None else alpha) * margin).exp()
