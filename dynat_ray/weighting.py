"""Per-sample weights of the outer loss."""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray.collectives import max_over_workers, sum_over_workers


def fragility(kl: Tensor, gap: Tensor, reach: Tensor) -> Tensor:
    """Returns how fragile each sample is, `(B,)`, at least 0.

    DynAT weighs by the KL divergence between the clean and the adversarial prediction, but budgets
    and early stops make it a measure of how far the attack happened to go: a fragile sample that
    fell at the second step has a small KL. Close to a prediction, KL grows with the square of the
    distance (its curvature is the Fisher information), so `sqrt(2 KL) / reach` is how fast the
    prediction moves per unit of attack; times `1 - gap` a sample nearer the boundary, or beyond
    it, counts for more. The formula is ours; the paper's abstract names the KL only.

    Args:
        kl: `KL(p(x) || p(x'))` `(B,)`.
        gap: `p_y - max_{k != y} p_k` of the clean prediction, `(B,)` in [-1, 1].
        reach: Attack spent, `min(steps * step_size, eps_i) / eps` `(B,)`; 0 where not attacked.
    """
    speed = (2 * kl.clamp(min=0)).sqrt() / reach.clamp(min=1e-3)
    return torch.where(reach > 0, speed * (1 - gap), torch.zeros_like(speed))


def softmax_weights(
    fragility: Tensor, temperature: float, min_weight: float, max_weight: float
) -> Tensor:
    """Returns weights `(B,)` with mean 1 over all workers: `softmax(k / T) * B`, clipped.

    Every worker must call this for every batch.

    Args:
        fragility: `k`, `(B,)`.
        temperature: `T`; large values make all weights 1.
        min_weight: Smallest weight before the last normalisation.
        max_weight: Largest.
    """
    scaled = fragility.detach().float() / temperature
    # Shifted by the largest of all workers: the exponential can't overflow, the ratio is the same.
    exponential = (scaled - max_over_workers(scaled.max())).exp()
    count = torch.tensor(float(len(scaled)), device=scaled.device)
    total, count = sum_over_workers(torch.stack([exponential.sum(), count])).unbind()
    weights = (exponential * count / total).clamp(min_weight, max_weight)
    return weights * count / sum_over_workers(weights.sum())
