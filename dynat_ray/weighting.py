"""Per-sample weights of the outer loss."""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray.collectives import max_over_workers, sum_over_workers

# Of attacked samples in a batch, as far as their mean goes.
_LEAST_SHARE = 1 / 6


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
        reach: Attack spent, `min(carried + steps * step_size, eps_i) / eps` `(B,)`, where `carried`
            is the size of the change that it began with; 0 where not attacked.
    """
    speed = (2 * kl.clamp(min=0)).sqrt() / reach.clamp(min=1e-3)
    return torch.where(reach > 0, speed * (1 - gap), torch.zeros_like(speed))


def softmax_weights(
    fragility: Tensor, temperature: float, min_weight: float, max_weight: float, attacked: Tensor
) -> Tensor:
    """Returns weights `(B,)`: `softmax(k / T)` over all attacked samples, clipped, with mean 1.

    Every worker must call this for every batch: softmax and mean run over all of them.

    Args:
        fragility: `k`, `(B,)`.
        temperature: `T`; large values make all weights 1.
        min_weight: Smallest weight before the last normalisation.
        max_weight: Largest before it.
        attacked: Samples `(B,)` (bool) that count; the others get 0, as do those whose fragility
            is not finite.
    """
    finite = fragility.isfinite()
    scaled = torch.where(finite, fragility.detach().float(), 0.0) / temperature
    counted = (attacked & finite).float()
    # Shifted by the largest of all workers: the exponential can't overflow, the ratio is the same.
    exponential = (scaled - max_over_workers(scaled.max())).exp() * counted
    total, count = sum_over_workers(torch.stack([exponential.sum(), counted.sum()])).unbind()
    smallest = torch.finfo(total.dtype).tiny
    weights = (exponential * count / total.clamp(min=smallest)).clamp(min_weight, max_weight)
    weights = weights * counted
    return weights * count / sum_over_workers(weights.sum()).clamp(min=smallest)


def mean_over_attacked(weights: Tensor, attacked: Tensor) -> Tensor:
    """Returns weights `(B,)` whose mean over the batch is that of `weights` over what is attacked.

    While fewer than a sixth of all samples are attacked, they count as if they were a sixth, so
    that the first few don't weigh more than all others. Every worker must call this.

    Args:
        weights: `(B,)`.
        attacked: Samples `(B,)` (bool) that count; the others get 0.
    """
    counted = attacked.float()
    sizes = torch.stack([counted.sum(), torch.ones_like(counted).sum()])
    attacked_size, size = sum_over_workers(sizes).unbind()
    return weights * counted * size / attacked_size.clamp(min=_LEAST_SHARE * size)
