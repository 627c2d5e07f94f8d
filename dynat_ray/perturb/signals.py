"""What predictions say about how fragile a sample is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynat_ray.perturb.objectives import runner_up

# Below this part of a one-hot vector's variance a prediction counts as uniform: its skewness is
# noise, and is pulled towards 0.
_UNIFORM_DEVIATION = 0.01


def predicted_classes(logits: Tensor) -> Tensor:
    """Returns the largest logit's class, `(B,)`; -1, which is no class, where one is not finite.

    Args:
        logits: Logits `(B, K)`.
    """
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), -1)


def confidence_gap(probs: Tensor) -> Tensor:
    """Returns `p(1) - p(2)`, the two largest probabilities' difference, `(B,)` in [0, 1].

    The robustness of a sample in DynAT (Wang, Zhang and Mei 2026).

    Args:
        probs: Probabilities `(B, K)`.
    """
    top = probs.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def signed_gap(probs: Tensor, labels: Tensor) -> Tensor:
    """Returns `p_y - max_{k != y} p_k`, `(B,)` in [-1, 1]; negative where misclassified."""
    return probs.gather(1, labels[:, None]).squeeze(1) - runner_up(probs, labels)


def adversarial_gap(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns `max_{k != y} p_k - p_y`, `(B,)` in [-1, 1]; positive where the attack won.

    Args:
        logits: Logits `(B, K)`.
        labels: True classes `(B,)`.
    """
    return -signed_gap(logits.float().softmax(dim=1), labels)


def skewness_limit(classes: int) -> float:
    """Returns the skewness of a one-hot vector, `(K - 2) / sqrt(K - 1)`, the largest there is."""
    return (classes - 2) / math.sqrt(classes - 1)


def skewness(probs: Tensor) -> Tensor:
    """Returns the skewness of each prediction over its classes, as a part of the largest, `(B,)`.

    In [-1, 1]: 1 where all mass beside the top class is spread evenly, lower where one competitor
    holds it (two even classes of ten: 0.56). Constant, 0, for two classes. Near uniform
    predictions, where it would be noise, it goes to 0.

    Args:
        probs: Probabilities `(B, K)`.
    """
    classes = probs.shape[1]
    if classes == 2:
        return torch.zeros_like(probs[:, 0])
    deviation = probs - 1 / classes
    variance = deviation.square().mean(dim=1)
    one_hot_variance = (classes - 1) / classes**2
    floor = _UNIFORM_DEVIATION**2 * one_hot_variance
    return deviation.pow(3).mean(dim=1) / (
        variance.clamp(min=floor).pow(1.5) * skewness_limit(classes)
    )
