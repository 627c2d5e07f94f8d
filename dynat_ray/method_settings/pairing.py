"""Settings of the methods that bring clean and adversarial predictions together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dynat_ray.config import MethodSettings
from dynat_ray.method_settings.by_name import register_settings
from dynat_ray.value_types import (
    AboveZeroToOne,
    ClosedUnitInterval,
    NonNegative,
    OneOrMore,
    Positive,
    ZeroUpToOne,
)


@register_settings
@dataclass(kw_only=True)
class ALPSettings(MethodSettings):
    """Settings of ALP.

    Attributes:
        pairing: Weight of the squared difference between clean and adversarial logits.
        clean_share: Part of the cross-entropy, in [0, 1], that is taken on clean images (the
            paper's mixed batches: half).
    """

    name: str = "alp"
    pairing: NonNegative = 0.5
    clean_share: ClosedUnitInterval = 0.5


@register_settings
@dataclass(kw_only=True)
class AALPSettings(MethodSettings):
    """Settings of AALP.

    Attributes:
        pairing: Weight of the squared difference between clean and adversarial logits.
        clean_share: Part of the cross-entropy, in [0, 1], that is taken on clean images.
        guided_dropout: Drop features of low contribution; off: none (ablation).
        min_keep: `q_min`, probability in (0, 1] that the least important channel is kept.
        weights: Weigh the pairing by `p_y(x')`; off: 1 (ablation).
    """

    ablation: ClassVar[tuple[str, ...]] = ("guided_dropout=false", "weights=false")

    name: str = "aalp"
    pairing: NonNegative = 0.5
    clean_share: ClosedUnitInterval = 0.5
    guided_dropout: bool = True
    min_keep: AboveZeroToOne = 0.8
    weights: bool = True


@register_settings
@dataclass(kw_only=True)
class ARoWSettings(MethodSettings):
    """Settings of ARoW.

    Attributes:
        beta: Weight of the KL term; 7 in the authors' CIFAR-10 runs.
        label_smoothing: Of the clean cross-entropy, in [0, 1); null: that of
            `train.label_smoothing`.
    """

    name: str = "arow"
    beta: NonNegative = 7.0
    label_smoothing: ZeroUpToOne | None = 0.2


@register_settings
@dataclass(kw_only=True)
class HATSettings(MethodSettings):
    """Settings of HAT.

    Attributes:
        standard_model: Folder of a model (or run) trained by `standard` on the same classes.
        beta: Weight of the KL term.
        gamma: Weight of the helper term.
        reach: `h`: the helper image is this many times as far away as the adversarial one.
    """

    standard_model_key: ClassVar[str] = "method.standard_model"

    name: str = "hat"
    standard_model: str = ""
    beta: NonNegative = 2.5
    gamma: NonNegative = 0.5
    reach: OneOrMore = 2.0


@register_settings
@dataclass(kw_only=True)
class IKLSettings(MethodSettings):
    """Settings of IKL.

    Attributes:
        alpha: Weight of the cross-entropy with soft labels.
        beta: Weight of the squared error.
        temperature: Of the predictions whose means by class are the error's weights.
    """

    name: str = "ikl"
    alpha: NonNegative = 4.0
    beta: NonNegative = 20.0
    temperature: Positive = 4.0


@register_settings
@dataclass(kw_only=True)
class GKLSettings(IKLSettings):
    """Settings of GKL, beside those of IKL.

    Attributes:
        temperature: As of IKL.
        gamma: Power of the mean predictions; 0: all classes count alike.
    """

    name: str = "gkl"
    temperature: Positive = 1.0
    gamma: NonNegative = 0.2


@register_settings
@dataclass(kw_only=True)
class MARTSettings(MethodSettings):
    """Settings of MART.

    Attributes:
        beta: Weight of the KL term; 5 in the paper's ResNet-18 runs.
    """

    name: str = "mart"
    beta: NonNegative = 5.0


@register_settings
@dataclass(kw_only=True)
class TRADESSettings(MethodSettings):
    """Settings of TRADES.

    Attributes:
        beta: Weight of the KL term; 6 in the paper's CIFAR-10 runs.
    """

    name: str = "trades"
    beta: NonNegative = 6.0


@register_settings
@dataclass(kw_only=True)
class UADATSettings(MethodSettings):
    """Settings of UAD-AT.

    Attributes:
        clean_share: Part of the cross-entropy, in [0, 1], that is taken on clean images.
        alignment: Weight of the KL between reference and drawn adversary.
        gradients: Weight of the gradient alignment; 0 spares its second derivatives.
        sample_share: Probability, in [0, 1], that an adversary's statistics are drawn.
        refine: Refine the reference of misclassified samples; off: always the own prediction.
    """

    ablation: ClassVar[tuple[str, ...]] = ("alignment=0", "gradients=0", "refine=false")

    name: str = "uad_at"
    clean_share: ClosedUnitInterval = 0.5
    alignment: NonNegative = 1.0
    gradients: NonNegative = 0.1
    sample_share: ClosedUnitInterval = 0.5
    refine: bool = True
