"""Settings of the methods that treat all samples alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from dynat_ray.config import MethodSettings
from dynat_ray.method_settings.by_name import register_settings
from dynat_ray.value_types import (
    ClosedUnitInterval,
    NonNegative,
    Positive,
    PositiveInt,
    ZeroUpToOne,
)


@register_settings
@dataclass(kw_only=True)
class StandardSettings(MethodSettings):
    """Clean training has no settings of its own."""

    name: str = "standard"


@register_settings
@dataclass(kw_only=True)
class PGDATSettings(MethodSettings):
    """PGD-AT has no settings beside the attack's."""

    name: str = "pgd_at"


@register_settings
@dataclass(kw_only=True)
class ADRSettings(MethodSettings):
    """Settings of ADR.

    Attributes:
        decay: Of the teacher's average, in [0, 1).
        first_temperature: Of the teacher's predictions when the run begins.
        last_temperature: When it ends; between them it follows half a cosine.
        first_trust: `lambda`, part of the target that is the teacher's, when the run begins.
        last_trust: When it ends.
    """

    name: str = "adr"
    decay: ZeroUpToOne = 0.995
    first_temperature: Positive = 2.0
    last_temperature: Positive = 1.0
    first_trust: ClosedUnitInterval = 0.7
    last_trust: ClosedUnitInterval = 0.95


@register_settings
@dataclass(kw_only=True)
class DeepDefenseSettings(MethodSettings):
    """Settings of Deep Defense; the defaults are those of its MNIST LeNet run.

    Attributes:
        regularisation: `lambda`, weight of the regulariser.
        correct_rate: `c`: a correct sample costs `exp(-c rho)`.
        wrong_rate: `d`: a wrong sample costs `exp(d rho)`.
        steps: Most linearisations of DeepFool.
        candidates: Most other classes that DeepFool looks at.
        lr_ratio: Learning rate as a part of `optim.lr`; the paper's runs: `optim.lr` 5e-4, ratio 1.
    """

    ablation: ClassVar[tuple[str, ...]] = ("regularisation=0",)

    standard_model_key: ClassVar[str] = "model.init_from"

    name: str = "deep_defense"
    regularisation: NonNegative = 15.0
    correct_rate: NonNegative = 25.0
    wrong_rate: NonNegative = 5.0
    steps: PositiveInt = 5
    candidates: PositiveInt = 10
    lr_ratio: Positive = 0.05


@register_settings
@dataclass(kw_only=True)
class GenerativeSSLSettings(MethodSettings):
    """Settings of the method.

    Attributes:
        width: Of the autoencoder's first layer.
        mask: Part of an image, in [0, 1), that the autoencoder has to fill in.
        noise: Standard deviation of the noise on what it sees, in [0, 1] pixels.
        pretraining: Part of the run, in [0, 1], before the autoencoder meets adversarial images.
        lr_ratio: Learning rate of the autoencoder as a part of the classifier's: at the whole of it
            its pixels saturate and it learns no more.
        attack_ratio: Budget of the attack as a part of eps.
        adversarial: Weight of the cross-entropy of screened images.
        reconstruction: Weight of the autoencoder's losses.
        consistency: Weight of the KL between clean and screened predictions.
        sparsity: Weight of the gate's mean.
        screening: `gate`; `none`: reconstructions without a gate; `raw`: adversarial images as
            they are, no generative model (both for ablations).
        attack_images: Off: clean images are screened instead of adversarial ones (ablation).
        train_jointly: Off: the autoencoder stays as it is after `pretraining` (ablation).
    """

    ablation: ClassVar[tuple[str, ...]] = (
        "screening=none",
        "screening=raw",
        "attack_images=false",
        "train_jointly=false",
    )

    name: str = "generative_ssl"
    width: PositiveInt = 16
    mask: ZeroUpToOne = 0.5
    noise: NonNegative = 0.1
    pretraining: ClosedUnitInterval = 0.3
    lr_ratio: NonNegative = 0.1
    attack_ratio: NonNegative = 0.5
    adversarial: NonNegative = 0.5
    reconstruction: NonNegative = 10.0
    consistency: NonNegative = 0.5
    sparsity: NonNegative = 0.01
    screening: Literal["gate", "none", "raw"] = "gate"
    attack_images: bool = True
    train_jointly: bool = True
