"""What an attack maximises: one loss a sample, `(B,)`, from logits `(B, K)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dynat_ray.errors import unknown_name

# (logits (B, K), labels (B,), clean log-probabilities (B, K) or None) -> losses (B,)
Objective = Callable[[Tensor, Tensor, Tensor | None], Tensor]
ObjectiveName = Literal["ce", "kl", "cw"]


def cross_entropy(logits: Tensor, labels: Tensor, clean_log_probs: Tensor | None) -> Tensor:
    """Returns cross-entropies `(B,)` (Madry et al. 2018)."""
    return F.cross_entropy(logits, labels, reduction="none")


def kl_from_clean(logits: Tensor, labels: Tensor, clean_log_probs: Tensor | None) -> Tensor:
    """Returns `KL(p(x) || p(x'))` `(B,)` (TRADES, Zhang et al. 2019)."""
    assert clean_log_probs is not None, "the KL objective needs the clean prediction"
    return kl_divergence(clean_log_probs, logits.log_softmax(dim=1))


def cw_margin(logits: Tensor, labels: Tensor, clean_log_probs: Tensor | None) -> Tensor:
    """Returns `max_{k != y} z_k - z_y` `(B,)` (Carlini and Wagner 2017, without confidence)."""
    return runner_up(logits, labels) - logits.gather(1, labels[:, None]).squeeze(1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Returns `KL(p || q)` `(B,)` of log-probabilities `(B, K)`, differentiable in both."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def runner_up(values: Tensor, labels: Tensor) -> Tensor:
    """Returns the largest of `values` `(B, K)` over the classes that are not the label, `(B,)`."""
    own = torch.zeros_like(values, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return values.masked_fill(own, float("-inf")).amax(dim=1)


_OBJECTIVES: dict[str, Objective] = {
    "ce": cross_entropy,
    "kl": kl_from_clean,
    "cw": cw_margin,
}


def is_named(objective: Objective) -> bool:
    """Returns whether a function is one of the named objectives."""
    return objective in _OBJECTIVES.values()


def get_objective(objective: ObjectiveName | Objective) -> Objective:
    """Returns the function of a named objective; a function is returned as it is."""
    if callable(objective):
        return objective
    if objective not in _OBJECTIVES:
        raise unknown_name("attack objective", objective, _OBJECTIVES)
    return _OBJECTIVES[objective]
