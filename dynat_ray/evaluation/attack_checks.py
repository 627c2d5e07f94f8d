"""Checks of what attacks found: an honest model orders them in one way only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from dynat_ray.attacks.gradient import GradientAttack
from dynat_ray.attacks.square import Square, square_fits
from dynat_ray.evaluation.batches import BATCH_SIZE
from dynat_ray.evaluation.checks import LEAST_SAMPLES, Check, Target, notable
from dynat_ray.evaluation.exact import device_of, exact
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.perturb.threat import Threat, largest_distance

# AutoAttack's own threshold, of samples that only Square fools.
_SQUARE_SHARE = 0.002
# Half of the range of pixels: every image can become plain grey.
_LARGE_EPS = 0.5
_LARGE_EPS_SHARE = 0.1
_LARGE_EPS_STEPS = 50
_QUERIES = 500


def check_attacks(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
) -> list[Check]:
    """Compares attacks that an honest model orders in one way only; takes some 300 passes.

    Args:
        model: On its device.
        images: float32 `(n, C, H, W)` in [0, 1]; up to `CHECK_SAMPLES` right ones are used.
        labels: int64 `(n,)`.
        threat: Norm and radius, more than 0.
        seed: Of all randomness.
        batch_size: Most images in a pass.
    """
    device = device_of(model)
    images, labels = images.to(device), labels.to(device)
    with exact(model) as ready:
        target = Target.among(ready, images, labels, threat, seed=seed, batch_size=batch_size)
        if len(target.labels) == 0:
            return []
        one = target.fooled(GradientAttack("fgsm", steps=1, random_start=False))
        few = target.fooled(GradientAttack("pgd-10", steps=10))
        many = target.fooled(GradientAttack("pgd-100", steps=100))
        margin = target.fooled(GradientAttack("cw-50", steps=50, objective="cw"))
        runs = square_fits(target.images, threat.norm)
        black_box = target.fooled(Square(queries=_QUERIES)) if runs else None
        return [
            _check_steps(one, few, many),
            _check_more_steps(few, many),
            _check_black_box(few | many | margin, black_box),
            _check_large_eps(target),
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
        by_square = outcome.fooled_by == len(outcome.stages) - 1
        if outcome.fallen_before is not None:
            # What fell at a smaller radius was shown to no other stage at this one.
            by_square &= ~outcome.fallen_before
        stage = outcome.second_stage
        weights = np.ones(outcome.samples) if stage is None else stage.weights()
        alone, share = int(by_square.sum()), float(weights[by_square].sum()) / outcome.samples
        among = f"{outcome.samples} samples{', of which it saw a part,' if stage else ''}"
        flagged = alone >= LEAST_SAMPLES and share > _SQUARE_SHARE
        checks.append(
            Check(
                f"square in {name}{at}",
                flagged,
                f"Square fools {alone} of {among} that every gradient-based attack of {name} left "
                f"right{at}" + ("; gradients may mislead the attacks" if flagged else ""),
                {"samples": outcome.samples, "only_square_percent": round(100 * share, 3)},
            )
        )
    return checks


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


def _check_large_eps(target: Target) -> Check:
    threat = target.at.threat
    far = threat.at(_LARGE_EPS * largest_distance(threat.norm, target.images[0].numel()))
    at = replace(target.at, threat=far)
    fooled = target.fooled(GradientAttack("pgd", steps=_LARGE_EPS_STEPS), at=at) | target.fooled(
        GradientAttack("cw", steps=_LARGE_EPS_STEPS, objective="cw"), at=at
    )
    left = 1 - float(fooled.float().mean())
    flagged = left > _LARGE_EPS_SHARE
    return Check(
        "large eps",
        flagged,
        f"PGD and CW leave {100 * left:.1f} % right at {far.norm} eps {far.eps:.3g}"
        + (", where any image can become plain grey: they miss what is there" if flagged else ""),
        {"eps": far.eps, "left_percent": 100 * left, "samples": float(len(fooled))},
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
