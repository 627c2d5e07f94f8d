"""Checks of what attacks rest on: inputs, answers and gradients of a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.evaluation.batches import BATCH_SIZE, in_batches
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.perturb.objectives import cw_margin

# AutoAttack's own threshold, of logits that change.
_RANDOMNESS = 1e-4
_PROBABILITY_ERROR = 1e-5
_ZERO_GRADIENT_SHARE = 0.05


def check_model(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    differentiable: bool = True,
    batch_size: int = BATCH_SIZE,
) -> list[Check]:
    """Checks inputs, answers and gradients; takes a few passes.

    Args:
        model: On its device.
        images: float32 `(n, C, H, W)` in [0, 1], a few dozen.
        labels: int64 `(n,)`.
        classes: Of the data set.
        differentiable: The logits have a gradient with respect to the images.
        batch_size: Most images in a pass.
    """
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with exact(model) as ready:
        with torch.no_grad():
            answers = torch.stack([in_batches(ready, batch_size, images) for _ in range(5)])
        return [
            _check_range(images),
            _check_randomness(answers),
            _check_probabilities(answers[0]),
            _check_classes(answers[0], classes),
            _check_gradients(ready, images, labels, batch_size) if differentiable else _NO_GRADIENT,
        ]


def _check_range(images: Tensor) -> Check:
    low, high = (float(value) for value in images.aminmax())
    flagged = high - low < 0.25
    return Check(
        "input range",
        flagged,
        f"pixels lie in [{low:.3f}, {high:.3f}]"
        + ("; if they were scaled twice, eps is too large for them" if flagged else ""),
        {"min": low, "max": high},
    )


def _check_randomness(answers: Tensor) -> Check:
    scale = answers.flatten(2).norm(dim=2, keepdim=True).clamp(min=1e-10)
    spread = (answers / scale).sub((answers / scale)[:1]).norm(dim=2).max()
    changed = float((answers.argmax(2) != answers[0].argmax(1)).any(0).float().mean())
    flagged = float(spread) > _RANDOMNESS or changed > 0
    sentence = (
        f"the model answers at random ({100 * changed:.1f} % of predictions change); use "
        "autoattack-rand, or --eot with other attacks"
        if flagged
        else "the model gives the same answer every time"
    )
    return Check(
        "randomness",
        flagged,
        sentence,
        {"largest_change": float(spread), "changed_percent": 100 * changed},
    )


def _check_probabilities(logits: Tensor) -> Check:
    sums = float((logits.sum(dim=1) - 1).abs().max())
    flagged = sums < _PROBABILITY_ERROR and float(logits.min()) > -_PROBABILITY_ERROR
    return Check(
        "logits",
        flagged,
        "the model returns probabilities; attacks need logits, whose gradients do not vanish"
        if flagged
        else "the model returns logits",
        {"largest_distance_of_sums_from_1": sums},
    )


def _check_classes(logits: Tensor, classes: int) -> Check:
    said = logits.argmax(dim=1)
    known = float((said < classes).float().mean())
    outputs = logits.shape[1]
    flagged = outputs > classes
    sentence = f"the model has {outputs} outputs, the data set {classes} classes"
    if flagged:
        sentence += "; are the first ones the classes of the data, in the same order?"
    if known == 0:
        sentence += " It never says any of them"
    return Check("classes", flagged, sentence, {"outputs": outputs, "known_percent": 100 * known})


_NO_GRADIENT = Check(
    "zero gradients",
    True,
    "the logits have no gradient with respect to the image, so that only black-box attacks can "
    "run, which find less",
)


def _check_gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Check:
    def share_of_zeros(objective: Callable[[Tensor, Tensor], Tensor]) -> float:
        def sizes_of(images: Tensor, labels: Tensor) -> Tensor:
            return _gradient_sizes(model, images, labels, objective)

        sizes = in_batches(sizes_of, batch_size, images, labels)
        return float(((sizes == 0) | ~sizes.isfinite()).float().mean())

    shares = [share_of_zeros(_cross_entropy), share_of_zeros(_margin)]
    flagged = max(shares) >= _ZERO_GRADIENT_SHARE
    ce, margin = (100 * share for share in shares)
    return Check(
        "zero gradients",
        flagged,
        f"the gradient with respect to the image is zero for {ce:.1f} % of the samples "
        f"(cross-entropy) and {margin:.1f} % (margin of the logits)"
        + ("; attacks that follow it are blind there: give --backward" if flagged else ""),
        {"cross_entropy_percent": ce, "margin_percent": margin},
    )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return cw_margin(logits, labels, None)


def _gradient_sizes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Returns the largest slope `(n,)` of an objective along any pixel of each image."""
    inputs = images.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        loss = objective(model(inputs), labels).sum()
        if not loss.requires_grad:
            return torch.zeros(len(images), device=images.device)
        (gradient,) = torch.autograd.grad(loss, inputs)
    # No squares, which can be 0 where the gradient is not.
    return gradient.flatten(1).abs().amax(dim=1)
