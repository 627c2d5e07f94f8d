"""Settings of the methods that decide budgets per sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from dynat_ray.config import MethodSettings
from dynat_ray.method_settings.by_name import register_settings
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

# One or two long steps may end in catastrophic overfitting (Andriushchenko and Flammarion 2020).
_LEAST_STEPS = 3


@register_settings
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

    ablation: ClassVar[tuple[str, ...]] = (
        "budgets=false",
        "early_stop=false",
        "weights=false",
        "misclassified=uniform",
        "steps_ratio=1",
    )

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


@register_settings
@dataclass(kw_only=True)
class FATSettings(MethodSettings):
    """Settings of FAT.

    Attributes:
        tau_milestones: Parts of the run at which `tau`, from 0, rises by one.
        step_noise: Standard deviation of normal noise added at every step.
    """

    name: str = "fat"
    tau_milestones: list[ClosedUnitInterval] = field(default_factory=lambda: [50 / 120, 90 / 120])
    step_noise: NonNegative = 0.001


@register_settings
@dataclass(kw_only=True)
class IAATSettings(MethodSettings):
    """Settings of IAAT.

    Attributes:
        gamma: How far beyond its budget a sample is tried, as a multiple of eps.
        rate: How often over remembered budgets are replaced by new ones in the run without its
            warm-up; in an epoch at most once.
        warmup: Part of the run, in [0, 1], in which correct samples get eps and the others none.
        warmup_accuracy: The warm-up goes on until so many training images, as a part in [0, 1],
            were classified correctly in the epoch before.
    """

    name: str = "iaat"
    gamma: Positive = 0.2375
    rate: Positive = 10.0
    warmup: ClosedUnitInterval = 0.09
    warmup_accuracy: ClosedUnitInterval = 0.5


@register_settings
@dataclass(kw_only=True)
class MWPBSettings(MethodSettings):
    """Settings of MWPB.

    Attributes:
        objective: The base method, `at` (PGD-AT) or `trades`.
        beta: Weight of the KL term of `trades`.
        alpha: How fast the budget grows with the margin; null: 0.58 for `at`, 0.42 for `trades`.
        start: Part of the run, in [0, 1], before which all budgets are eps.
    """

    name: str = "mwpb"
    objective: Literal["at", "trades"] = "at"
    beta: NonNegative = 6.0
    alpha: Finite | None = None
    start: ClosedUnitInterval = 2 / 3
