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

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dynat_ray.config import MethodSettings
from dynat_ray.data import Batch
from dynat_ray.methods.base import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.pgd_at import adversarial_loss
from dynat_ray.methods.registration import register
from dynat_ray.methods.sample_columns import attack_record, clean_record
from dynat_ray.methods.trades import trades_terms
from dynat_ray.perturb.budget import BudgetRule
from dynat_ray.perturb.compaction import places_to_keep
from dynat_ray.perturb.running import StopRule
from dynat_ray.perturb.signals import signed_gap
from dynat_ray.value_types import (
    AboveZeroToOne,
    ClosedUnitInterval,
    Finite,
    MinusOneToOne,
    NonNegative,
    OneOrMore,
    Positive,
    PositiveInt,
)
from dynat_ray.weighting import fragility, mean_over_attacked, softmax_weights

# One or two long steps may end in catastrophic overfitting (Andriushchenko and Flammarion 2020).
_LEAST_STEPS = 3


@dataclass(kw_only=True)
class DynATSettings(MethodSettings):
    """Settings of DynAT; the coefficients are what `tune_spaces/dynat.yaml` searches.

    Attributes:
        objective: `trades`: `mean CE(f(x), y) + beta mean w KL`, the second mean over what is
            attacked, which maximises the KL; `at`: `mean w CE(f(x'), y)`, the attack maximises
            the cross-entropy.
        beta: Weight of the KL term of `trades`.
        budgets: (c) Per-sample budgets; off: eps for all.
        gap_coef: Weight of the confidence gap in the budget.
        skew_coef: Weight of the skewness in the budget.
        eps_min_ratio: Smallest budget factor.
        eps_max_ratio: Largest budget factor.
        misclassified: (b) Wrong clean samples are left `clean`, which spares their attacks, or are
            attacked with the `uniform` budget eps.
        steps_ratio: Steps of an attack as a part of `attack.steps`, in (0, 1], at least three
            (or all); each is as much longer, at most eps. What they spare can go into epochs.
        early_stop: (c) Stop a sample's attack once it has won by `stop_margin`.
        stop_margin: Adversarial gap `max_{k != y} p'_k - p'_y`, in [-1, 1], at which it stops.
        min_steps: Steps before it may stop.
        weights: (d) Weights by fragility; off: 1 for all.
        kl_temperature: Temperature of the weights' softmax; large: all 1.
        min_weight: Smallest weight before weights are scaled to their mean of 1.
        max_weight: Largest weight before that.
    """

    name: str = "dynat"
    objective: Literal["trades", "at"] = "trades"
    beta: NonNegative = 5.0
    budgets: bool = True
    gap_coef: Finite = 0.6
    skew_coef: Finite = 0.3
    eps_min_ratio: ClosedUnitInterval = 0.5
    eps_max_ratio: OneOrMore = 1.5
    misclassified: Literal["clean", "uniform"] = "clean"
    steps_ratio: AboveZeroToOne = 0.3
    early_stop: bool = True
    stop_margin: MinusOneToOne = 0.3
    min_steps: PositiveInt = 1
    weights: bool = True
    kl_temperature: Positive = 4.0
    min_weight: ClosedUnitInterval = 0.5
    max_weight: OneOrMore = 2.0

    def most_steps(self, configured: int) -> int:
        return min(configured, max(_LEAST_STEPS, round(self.steps_ratio * configured)))


@register
class DynAT(Method[DynATSettings]):
    """Budgets, stops and weights decided per sample."""

    settings_class = DynATSettings
    ablation = (
        "budgets=false",
        "early_stop=false",
        "weights=false",
        "misclassified=uniform",
        "steps_ratio=1",
    )

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
