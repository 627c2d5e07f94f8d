"""The columns of `samples/*.parquet` that come from predictions and attacks."""

from __future__ import annotations

from torch import Tensor

from dynat_ray.perturb.objectives import kl_divergence
from dynat_ray.perturb.running import AttackOutcome
from dynat_ray.perturb.signals import (
    adversarial_gap,
    confidence_gap,
    predicted_classes,
    skewness,
)


def clean_record(logits: Tensor) -> dict[str, Tensor]:
    """Returns what clean logits `(B, K)` say: prediction, confidence gap, skewness, `(B,)` each."""
    probs = logits.softmax(dim=1)
    return {
        "predicted": predicted_classes(logits),
        "confidence_gap": confidence_gap(probs),
        "skewness": skewness(probs),
    }


def attack_record(
    outcome: AttackOutcome, labels: Tensor, clean_logits: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns what an attack did to each sample: budget, steps, gap, KL, `(B,)` each.

    Args:
        outcome: Of the attack.
        labels: Classes `(B,)` that the attack moved away from.
        clean_logits: Logits `(B, K)` of the clean images; without them there is no KL.
    """
    gap = adversarial_gap(outcome.logits, labels)
    record = {
        "eps": outcome.eps,
        "attack_steps": outcome.steps,
        "adversarial_gap": gap,
    }
    if clean_logits is not None:
        record["kl"] = kl_divergence(
            clean_logits.log_softmax(dim=1), outcome.logits.log_softmax(dim=1)
        )
    return record
