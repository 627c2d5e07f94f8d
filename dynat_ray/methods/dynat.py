"""DynAT: dynamic adversarial training by sample robustness disparity (Wang, Zhang and Mei, 2026).

The abstract fixes five facts, marked (a) to (e) below; every formula is ours.

(a) A sample's robustness is the gap between its two largest confidences.
(b) Only correctly classified clean samples get a budget of their own.
(c) The gap is fused with the skewness of all confidences into the budget, and the attack stops
    early: differential perturbations.
(d) A KL divergence measures how far a sample's prediction moves; fragile samples weigh more.
(e) The two modules work together. Each can be switched off for an ablation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.method_settings.budgets import DynATSettings
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.methods.trades import trades_terms
from dynat_ray.perturb.budget import BudgetRule
from dynat_ray.perturb.compaction import places_to_keep
from dynat_ray.perturb.running import StopRule
from dynat_ray.perturb.signals import signed_gap
from dynat_ray.weighting import fragility, mean_over_attacked, softmax_weights


@register
class DynAT(Method[DynATSettings]):
    """Budgets, stops and weights decided per sample."""

    settings_class = DynATSettings

    def __init__(self, settings: DynATSettings, context: MethodContext) -> None:
        super().__init__(settings, context)
        self.budget = BudgetRule(
            settings.gap_coef, settings.skew_coef, settings.eps_min_ratio, settings.eps_max_ratio
        )

    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        settings = self.settings
        clean_logits = self.clean_logits(network, batch.images)
        record = clean_record(clean_logits)
        correct = record["predicted"] == batch.main_labels
        ratios = self._budget_ratios(record, correct)
        outcome = self.attack(
            network,
            batch,
            keys,
            "kl" if settings.objective == "trades" else "ce",
            ratios=ratios,
            # (b) Wrong samples are past the boundary already; they make all steps.
            stop=StopRule(settings.stop_margin, settings.min_steps, applies=correct)
            if settings.early_stop
            else None,
            clean_logits=clean_logits,
            # Without it a step lasts as long as on the worker with the most right samples.
            balanced=settings.misclassified == "clean",
        )
        record |= attack_record(outcome, batch.main_labels, clean_logits)
        record["weight"] = weights = self._weights(record, clean_logits, batch, ratios)
        extras = {"attacked": ratios > 0}
        return Prepared(batch, outcome.images, weights, record, extras)

    def _weights(
        self, record: dict[str, Tensor], clean_logits: Tensor, batch: Batch, ratios: Tensor
    ) -> Tensor:
        settings, attacked = self.settings, ratios > 0
        weights = attacked.float()
        if settings.weights:
            # How far the attack could go, as a part of the budget.
            threat = self.context.threat
            step = self.step_size / threat.eps if threat.eps > 0 else 0.0
            spent = record["attack_steps"] * step
            if batch.carried is not None:
                budgets = (threat.eps * ratios).clamp(min=1e-12)
                spent = spent + threat.sizes(batch.carried) / budgets
            gap = signed_gap(clean_logits.softmax(dim=1), batch.main_labels)
            record["fragility"] = fragility(record["kl"], gap, ratios * spent.clamp(max=1))
            weights = softmax_weights(
                record["fragility"],
                settings.kl_temperature,
                settings.min_weight,
                settings.max_weight,
                attacked,
            )
        if settings.objective == "trades":
            return mean_over_attacked(weights, attacked)
        # Samples without an attack are learnt as they are.
        return torch.where(attacked, weights, torch.ones_like(weights))

    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        if self.settings.objective == "at":
            return adversarial_loss(self, network, prepared)
        return self._trades_loss(network, prepared)

    def _trades_loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        """Returns `mean CE(f(x), y) + beta mean w KL(p(x) || p(x'))`.

        Clean images and those that were attacked go through the network in one batch: what has no
        attack is not computed twice, and batch normalisation sees enough images however few
        were attacked. (On an accelerator some of the others are computed twice, to fill up.)
        """
        images, adversarial = prepared.batch.images, prepared.adversarial
        assert adversarial is not None
        places = places_to_keep(~prepared.extras["attacked"], len(images))
        changed = adversarial if places is None else adversarial[places]
        logits: Tensor = network(torch.cat([images, changed])).float()
        clean_logits, adversarial_logits = logits.split([len(images), len(changed)])
        if places is not None:
            adversarial_logits = clean_logits.index_copy(0, places, adversarial_logits)
        return trades_terms(self, prepared, clean_logits, adversarial_logits, self.settings.beta)

    def state_dict(self) -> dict[str, Any]:
        return {"budget": self.budget.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.budget.load_state_dict(state["budget"])

    def _budget_ratios(self, record: dict[str, Tensor], correct: Tensor) -> Tensor:
        gap, skewness = record["confidence_gap"], record["skewness"]
        if self.settings.budgets:
            ratios = self.budget.ratios(gap, skewness, correct)
        else:
            ratios = torch.ones_like(gap)
        if self.settings.misclassified == "clean":
            ratios = torch.where(correct, ratios, torch.zeros_like(ratios))
        return ratios
