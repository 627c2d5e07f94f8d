"""Settings of the methods that decide weights of the loss per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynat_ray.config import MethodSettings
from dynat_ray.method_settings.by_name import register_settings
from dynat_ray.value_types import (
    ClosedUnitInterval,
    Finite,
    NonNegative,
)


@register_settings
@dataclass(kw_only=True)
class GAIRATSettings(MethodSettings):
    """Settings of GAIRAT.

    Attributes:
        shift: `lambda` of the weight; smaller values single out fewer samples.
        start: Part of the run, in [0, 1], before which all weights are 1.
        start_accuracy: So many training images, as a part in [0, 1], must have withstood the attack
            in the epoch before.
    """

    name: str = "gairat"
    shift: Finite = -1.0
    start: ClosedUnitInterval = 0.5
    start_accuracy: ClosedUnitInterval = 0.5


@register_settings
@dataclass(kw_only=True)
class MAILSettings(MethodSettings):
    """Settings of MAIL.

    Attributes:
        objective: `trades`: `CE(f(x), y) + beta mean w KL`; `at`: `mean w CE(f(x'), y)`; `mart`:
            MART with `w` on its cross-entropy.
        beta: Weight of the KL term of `trades` and `mart`.
        slope: Of the sigmoid; null: 10 for `at`, else 2 (for `mart` a guess of ours).
        bias: Of the margin; null: -0.5 for `at`, else 0 (likewise).
        start: Part of the run, in [0, 1], before which all weights are 1.
    """

    name: str = "mail"
    objective: Literal["trades", "at", "mart"] = "trades"
    beta: NonNegative = 5.0
    slope: Finite | None = None
    bias: Finite | None = None
    start: ClosedUnitInterval = 0.625


@register_settings
@dataclass(kw_only=True)
class VIRSettings(MethodSettings):
    """Settings of VIR.

    Attributes:
        beta: Weight of the KL term.
        scale: `a` of the weight: how much vulnerable samples count.
        slope: `g`: how fast vulnerability falls with the probability of the class.
        least: `b`: what every sample counts.
        start: Part of the run, in [0, 1], before which all weights are 1.
    """

    name: str = "vir"
    beta: NonNegative = 6.0
    scale: NonNegative = 8.0
    slope: NonNegative = 3.0
    least: NonNegative = 1.6
    start: ClosedUnitInterval = 0.625
