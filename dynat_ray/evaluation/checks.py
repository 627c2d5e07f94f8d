"""Signs that a measured robustness may not be real, each a sentence with its numbers.

After Carlini et al., "On Evaluating Adversarial Robustness" (2019), and the flags of AutoAttack.
A flag does not say that a model is broken, but that its numbers need another, adaptive attack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.attacks.square import Square, square_fits
from dynat_ray.attacks.stages import Setting, Stage
from dynat_ray.config import Norm
from dynat_ray.evaluation.batches import BATCH_SIZE, in_batches
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.perturb.objectives import cw_margin

# Most samples that the checks attack, all of them right without attack.
CHECK_SAMPLES = 64

# Differences this small may be chance or an honest attack's bad luck.
_LEAST_SAMPLES = 3
_LEAST_SHARE = 0.04
# AutoAttack's own thresholds: of logits that change, of samples that only Square fools.
_RANDOMNESS = 1e-4
_SQUARE_SHARE = 0.002
_PROBABILITY_ERROR = 1e-5
_ZERO_GRADIENT_SHARE = 0.05
# Half of the range of pixels: every image can become plain grey.
_LARGE_EPS = 0.5
_LARGE_EPS_SHARE = 0.1
_LARGE_EPS_STEPS = 50
_QUERIES = 500


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Short name.
        flagged: Whether it speaks against the measured robustness.
        sentence: What was found.
        numbers: What the sentence rests on; shares in percent.
    """

    name: str
    flagged: bool
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """Returns what results files hold."""
        return asdict(self)


def check_model(
    model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = BATCH_SIZE
) -> list[Check]:
    """Checks inputs, answers and gradients; takes a few passes.

    Args:
        model: On its device.
        images: float32 `(n, C, H, W)` in [0, 1], a few dozen.
        labels: int64 `(n,)`.
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
            _check_gradients(ready, images, labels, batch_size),
        ]


def check_attacks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm,
    eps: float,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> list[Check]:
    """Compares attacks that an honest model orders in one way only; takes some 300 passes.

    Args:
        model: On its device.
        images: float32 `(n, C, H, W)` in [0, 1]; up to `CHECK_SAMPLES` right ones are used.
        labels: int64 `(n,)`.
        norm: `Linf` or `L2`.
        eps: Radius in units of [0, 1] pixels, more than 0.
        seed: Of all randomness.
        batch_size: Most images in a pass.
    """
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with exact(model) as ready:
        with torch.no_grad():
            logits = in_batches(ready, batch_size, images)
        right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)[:CHECK_SAMPLES]
        if len(right) == 0:
            return []
        images, labels = images[right].contiguous(), labels[right]
        at = Setting(norm=norm, eps=eps, classes=logits.shape[1], seed=seed)

        def fooled(stage: Stage, setting: Setting = at) -> Tensor:
            def some_fooled(images: Tensor, labels: Tensor) -> Tensor:
                with torch.no_grad():
                    answer: Tensor = ready(stage.perturb(ready, images, labels, setting))
                return (answer.argmax(dim=1) != labels) | ~answer.isfinite().all(dim=1)

            return in_batches(some_fooled, batch_size, images, labels)

        one = fooled(GradientAttack("fgsm", steps=1, random_start=False))
        few = fooled(GradientAttack("pgd-10", steps=10))
        many = fooled(GradientAttack("pgd-100", steps=100))
        margin = fooled(GradientAttack("cw-50", steps=50, objective="cw"))
        black_box = fooled(Square(queries=_QUERIES)) if square_fits(images, norm) else None
        dimensions = images[0].numel()
        radius = _LARGE_EPS * (1 if norm == "Linf" else math.sqrt(dimensions))
        far = Setting(norm=norm, eps=radius, classes=at.classes, seed=seed)
        everything = fooled(GradientAttack("pgd", steps=_LARGE_EPS_STEPS), far) | fooled(
            GradientAttack("cw", steps=_LARGE_EPS_STEPS, objective="cw"), far
        )
    return [
        _check_steps(one, few, many),
        _check_more_steps(few, many),
        _check_black_box(few | many | margin, black_box),
        _check_large_eps(everything, norm, radius),
    ]


def check_outcomes(outcomes: Mapping[str, Outcome], radius: str = "") -> list[Check]:
    """Looks whether Square, which knows no gradients, was what AutoAttack's success came from.

    Args:
        outcomes: Of each attack, at one eps.
        radius: How to call that eps where there are several; empty: there are not.
    """
    at = f" at eps {radius}" if radius else ""
    checks = []
    for name, outcome in outcomes.items():
        if len(outcome.stages) < 2 or outcome.stages[-1] != "square":
            continue
        alone = int((outcome.fooled_by == len(outcome.stages) - 1).sum())
        share = alone / outcome.samples
        flagged = alone >= _LEAST_SAMPLES and share > _SQUARE_SHARE
        checks.append(
            Check(
                f"square in {name}{at}",
                flagged,
                f"Square fools {alone} of {outcome.samples} samples that every gradient-based "
                f"attack of {name} left right{at}"
                + ("; gradients may mislead the attacks" if flagged else ""),
                {"samples": outcome.samples, "only_square_percent": round(100 * share, 3)},
            )
        )
    return checks


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
        "autoattack-rand"
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


def _check_gradients(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> Check:
    def sizes_of(images: Tensor, labels: Tensor) -> Tensor:
        inputs = images.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            logits = model(inputs)
            loss = (
                F.cross_entropy(logits, labels, reduction="none")
                if name == "cross-entropy"
                else cw_margin(logits, labels, None)
            ).sum()
            (gradient,) = (
                torch.autograd.grad(loss, inputs) if loss.requires_grad else (inputs.detach() * 0,)
            )
        # No squares, which can be 0 where the gradient is not.
        return gradient.flatten(1).abs().amax(dim=1)

    shares = {}
    for name in ("cross-entropy", "margin"):
        sizes = in_batches(sizes_of, batch_size, images, labels)
        shares[name] = float(((sizes == 0) | ~sizes.isfinite()).float().mean())
    flagged = max(shares.values()) >= _ZERO_GRADIENT_SHARE
    ce, margin = (100 * share for share in shares.values())
    return Check(
        "zero gradients",
        flagged,
        f"the gradient with respect to the image is zero for {ce:.1f} % of the samples "
        f"(cross-entropy) and {margin:.1f} % (margin of the logits)"
        + ("; attacks that follow it are blind there" if flagged else ""),
        {"cross_entropy_percent": ce, "margin_percent": margin},
    )


def _check_steps(one: Tensor, few: Tensor, many: Tensor) -> Check:
    flagged, numbers = _stronger(one, few | many, "fgsm", "pgd")
    return Check(
        "one step against many",
        flagged,
        f"one step (FGSM) fools {numbers['fgsm_percent']:.1f} %, many steps (PGD) "
        f"{numbers['pgd_percent']:.1f} %"
        + ("; a true gradient makes many steps the stronger attack" if flagged else ""),
        numbers,
    )


def _check_more_steps(few: Tensor, many: Tensor) -> Check:
    flagged, numbers = _stronger(few, many, "pgd_10", "pgd_100")
    return Check(
        "more steps",
        flagged,
        f"PGD fools {numbers['pgd_10_percent']:.1f} % in 10 steps and "
        f"{numbers['pgd_100_percent']:.1f} % in 100"
        + ("; more steps should not weaken an attack" if flagged else ""),
        numbers,
    )


def _check_black_box(white_box: Tensor, black_box: Tensor | None) -> Check:
    if black_box is None:
        return Check(
            "black box against white box",
            False,
            "not looked at: Square can't run on images of this size under this norm",
        )
    alone = int((black_box & ~white_box).sum())
    flagged = notable(alone, len(black_box))
    numbers = {
        "samples": float(len(black_box)),
        "only_square_percent": 100 * alone / len(black_box),
        "gradient_percent": 100 * float(white_box.float().mean()),
        "square_percent": 100 * float(black_box.float().mean()),
    }
    return Check(
        "black box against white box",
        flagged,
        f"Square with {_QUERIES} queries and without gradients fools {alone} of "
        f"{len(black_box)} samples that PGD and CW leave right"
        + ("; gradients may mislead the attacks" if flagged else ""),
        numbers,
    )


def _check_large_eps(fooled: Tensor, norm: Norm, radius: float) -> Check:
    left = 1 - float(fooled.float().mean())
    flagged = left > _LARGE_EPS_SHARE
    return Check(
        "large eps",
        flagged,
        f"PGD and CW leave {100 * left:.1f} % right at {norm} eps {radius:.3g}"
        + (", where any image can become plain grey: they miss what is there" if flagged else ""),
        {"eps": radius, "left_percent": 100 * left, "samples": float(len(fooled))},
    )


def _stronger(
    weak: Tensor, strong: Tensor, weak_name: str, strong_name: str
) -> tuple[bool, dict[str, float]]:
    """Returns whether the weak attack fools notably more than the strong one, and the shares."""
    difference = int((weak & ~strong).sum()) - int((strong & ~weak).sum())
    return notable(difference, len(weak)), {
        "samples": float(len(weak)),
        f"{weak_name}_percent": 100 * float(weak.float().mean()),
        f"{strong_name}_percent": 100 * float(strong.float().mean()),
    }


def notable(count: int, samples: int) -> bool:
    """Returns whether so many of the samples can hardly be chance or an attack's bad luck."""
    return count >= max(_LEAST_SAMPLES, _LEAST_SHARE * samples)
