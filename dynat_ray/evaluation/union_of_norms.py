"""Several norms at once: which order, what each leaves right, and what is right under all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.evaluation.answers import Answers
from dynat_ray.evaluation.request import parse_radius
from dynat_ray.evaluation.robust_accuracy import evaluate_attacks
from dynat_ray.evaluation.second_stage import wilson
from dynat_ray.perturb.threat import Threat
from dynat_ray.radius import format_radius, require_possible

# Finds which norm leaves the fewest images right, in a few passes.
_PROBE = "apgd-ce"
_SAMPLED = "autoattack-sampled"


def parse_norms(text: str, key: str = "--norms") -> tuple[Threat, ...]:
    """Returns threats written as `Linf:8/255,L2:0.5,L1:12`, in the order given.

    Args:
        text: What the user wrote.
        key: What the user calls it.

    Raises:
        UserError: It is something else, or names a norm twice, or one alone.
    """
    threats = []
    for part in text.split(","):
        norm, colon, radius = part.strip().partition(":")
        if norm not in get_args(Norm) or not colon:
            raise UserError(
                f"{key} has '{part.strip()}'; each must be one of {', '.join(get_args(Norm))} with "
                "its radius, such as Linf:8/255,L2:0.5,L1:12"
            )
        eps = parse_radius(radius, key)
        require_possible(eps, norm, key)
        if eps == 0:
            raise UserError(f"{key} has '{part.strip()}'; a radius must be more than 0")
        threats.append(Threat(norm, eps))  # type: ignore[arg-type]
    norms = [threat.norm for threat in threats]
    if len(set(norms)) < len(norms):
        raise UserError(f"{key} names a norm twice ({', '.join(norms)}); give each once")
    if len(norms) < 2:
        raise UserError(f"{key} names {norms[0]} alone; give --norm {norms[0]} and --eps instead")
    return tuple(threats)


def require_joinable(attacks: Sequence[str]) -> None:
    """Raises `UserError` if what an attack leaves right is not known image by image."""
    if _SAMPLED in attacks:
        raise UserError(
            f"{_SAMPLED} does not try every image, so that nobody knows which are right under all "
            "--norms; give --attacks clean,autoattack"
        )


def worst_first(
    model: nn.Module, images: Tensor, labels: Tensor, threats: Sequence[Threat], seed: int
) -> list[Threat]:
    """Returns the threats, the one first that leaves the fewest of some images right.

    Args:
        model: On its device.
        images: float32 `(n, C, H, W)` in [0, 1].
        labels: int64 `(n,)`.
        threats: Of any norms.
        seed: Of the attack.
    """

    def left(threat: Threat) -> float:
        found = evaluate_attacks(model, images, labels, [_PROBE], threat, seed=seed)
        return found[_PROBE].accuracy

    return sorted(threats, key=left)


def union(answers: Sequence[Mapping[str, Answers]]) -> dict[str, dict[str, Any]]:
    """Returns, for each attack, what is right under all norms, as entries of results files.

    Args:
        answers: Of each norm, by attack; of the same images.
    """
    entries = {}
    for attack in answers[0]:
        index = answers[0][attack].index
        assert all(np.array_equal(found[attack].index, index) for found in answers)
        right = np.logical_and.reduce([found[attack].right for found in answers])
        entries[attack] = entry_of(int(right.sum()), len(right))
    return entries


def entry_of(right: int, samples: int) -> dict[str, Any]:
    """Returns an accuracy in percent with its 95 % interval, as results files hold it."""
    low, high = wilson(right / samples, samples)
    return {
        "accuracy": round(100 * right / samples, 3),
        "samples": samples,
        "interval": [round(100 * low, 3), round(100 * high, 3)],
    }


def name_of(threat: Threat) -> str:
    """Returns a threat as people write it, such as `Linf 8/255`."""
    return f"{threat.norm} {format_radius(threat.eps, threat.norm)}"
