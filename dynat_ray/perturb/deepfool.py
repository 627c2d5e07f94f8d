"""DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, CVPR 2016), unrolled: a small perturbation that
changes a prediction, under L2, as a function of the weights that can be differentiated.

The variant is near that of Deep Defense's code (Yan, Guo and Zhang, NeurIPS 2018): five steps, a
small constant added to gradients before their length is taken. Here the overshoot counts at every
step, so that an image is linearised at `x + 1.02 r`; that code does it at `x + r` and lengthens the
result alone. Where that code runs a hand-written inverse network, `autograd.grad` with
`create_graph` gives the same gradient through piecewise linear networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Added to every element of a gradient: its length is never 0.
_OFFSET = 5e-6
# Squared lengths below this have no gradient (that of a root at 0 is infinite).
_SHORTEST = 1e-12


@dataclass(frozen=True)
class DeepFoolOutcome:
    """What DeepFool found.

    Attributes:
        perturbation: `(B, C, H, W)`, overshoot included.
        logits: Logits `(B, K)` of the clean images, differentiable if asked for.
    """

    perturbation: Tensor
    logits: Tensor


def deepfool(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int = 5,
    overshoot: float = 0.02,
    candidates: int = 10,
    differentiable: bool = False,
) -> DeepFoolOutcome:
    """Walks to the nearest linearised boundary, up to `steps` times, each sample until it crosses.

    A sample that is classified as its label moves away from it, to the nearest of the other
    classes; one that is not moves towards its label. Results are not clamped to [0, 1].

    Args:
        network: Images in [0, 1] to logits `(B, K)`, without autocast; its modes stay as they are.
        images: Clean images `(B, C, H, W)`.
        labels: `(B,)`; None: what the network predicts, so that all move away.
        steps: Most linearisations.
        overshoot: The walked distance is lengthened by this part.
        candidates: Most other classes that are looked at: those with the largest clean logits.
        differentiable: Keep the graph, so that a loss of the perturbation reaches the weights.
    """
    start = images.detach().clone().requires_grad_(True)
    walked = torch.zeros_like(images)
    walking = torch.arange(len(images), device=images.device)
    clean_logits = targets = towards = None
    with torch.enable_grad():
        for _ in range(steps):
            current = start[walking] + (1 + overshoot) * walked[walking]
            logits = network(current)
            predicted = logits.argmax(dim=1)
            if clean_logits is None:
                clean_logits = logits
                labels = predicted if labels is None else labels
                towards = predicted != labels
                targets = _targets(logits.detach(), labels, towards, candidates)
            assert labels is not None
            assert targets is not None
            assert towards is not None
            crossed = (predicted == labels[walking]) == towards[walking]
            if bool(crossed.all()):
                break
            # Seen from where a sample is now: the class to leave.
            sources = torch.where(towards[walking], predicted, labels[walking])
            step = _step(current, logits, sources, targets[walking], differentiable)
            step = step * (~crossed).view(-1, 1, 1, 1)
            walked = walked.index_add(0, walking, step if differentiable else step.detach())
            # Those that have crossed cost nothing from the next step on.
            walking = walking[~crossed]
    assert clean_logits is not None
    return DeepFoolOutcome((1 + overshoot) * walked, clean_logits)


def relative_length(perturbation: Tensor, images: Tensor) -> Tensor:
    """Returns `|perturbation| / |image|` of every sample, `(B,)`, Euclidean."""
    return _length(perturbation, 1) / _length(images, 1)


def _targets(logits: Tensor, labels: Tensor, towards: Tensor, candidates: int) -> Tensor:
    """Returns the classes `(B, T)` that samples may cross to; the label itself, T times, for those
    that move towards it."""
    count = min(candidates, logits.shape[1] - 1)
    others = logits.scatter(1, labels[:, None], float("-inf")).topk(count, dim=1).indices
    return torch.where(towards[:, None], labels[:, None], others)


def _step(
    current: Tensor, logits: Tensor, sources: Tensor, targets: Tensor, differentiable: bool
) -> Tensor:
    """Returns the step `(B, C, H, W)` to the nearest linearised boundary."""
    margins = logits.gather(1, targets) - logits.gather(1, sources[:, None])

    def gradient(margin: Tensor, create_graph: bool) -> Tensor:
        (found,) = torch.autograd.grad(
            margin.sum(), current, retain_graph=True, create_graph=create_graph
        )
        return found

    directions = torch.stack([gradient(each, False) for each in margins.unbind(1)], dim=1)
    lengths = _length(directions + _OFFSET, 2)
    nearest = (margins.detach().abs() / lengths).argmin(dim=1)
    rows = torch.arange(len(current), device=current.device)
    # Which boundary is nearest has no derivative: a graph is built for that one alone.
    margin = margins[rows, nearest]
    if differentiable:
        direction = gradient(margin, True)
        length = _length(direction + _OFFSET, 1)
    else:
        direction, length = directions[rows, nearest], lengths[rows, nearest]
    return (margin.abs() / length.square()).view(-1, 1, 1, 1) * direction


def _length(values: Tensor, kept: int) -> Tensor:
    """Returns lengths over all but the first `kept` axes, with a gradient that is always finite."""
    return values.flatten(kept).square().sum(dim=-1).clamp(min=_SHORTEST).sqrt()
