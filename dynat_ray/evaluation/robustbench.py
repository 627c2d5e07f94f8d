"""An entry in the format of RobustBench's `model_info` (Croce et al., NeurIPS Datasets 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynat_ray.config import Norm
from dynat_ray.data import DatasetInfo
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.shards import WRONG_WHEN_CLEAN
from dynat_ray.evaluation.subject import Subject
from dynat_ray.models import Classifier
from dynat_ray.radius import exact_radius

# The radii of the leaderboards; of a curve, the first of these that it has is entered.
_LEADERBOARD_EPS = {"Linf": (8 / 255, 4 / 255), "L2": (0.5,)}
_TOLERANCE = 1e-9
_ATTACK = "autoattack"


def robustbench_entry(
    outcomes: Mapping[float, Mapping[str, Outcome]],
    subject: Subject,
    data: DatasetInfo,
    checks: Sequence[Check],
    norm: Norm,
) -> dict[str, Any] | None:
    """Returns the entry, JSON values; None if AutoAttack or clean accuracy was not measured.

    What an evaluation does not know (paper, authors, venue) is left empty for the user.

    Args:
        outcomes: For each eps an outcome for each attack.
        subject: The model.
        data: The data set.
        checks: All checks of the evaluation; one flag makes the entry `unreliable`.
        norm: `Linf` or `L2`.
    """
    radii = [eps for eps, found in outcomes.items() if eps > 0 and _ATTACK in found]
    if not radii:
        return None
    eps = next(
        (
            radius
            for wanted in _LEADERBOARD_EPS[norm]
            for radius in radii
            if abs(radius - wanted) < _TOLERANCE
        ),
        max(radii),
    )
    robust = outcomes[eps][_ATTACK]
    # On the same images as AutoAttack, and what those that were wrong unattacked show anyway.
    clean = 100 * float((robust.fooled_by != WRONG_WHEN_CLEAN).mean())
    model = subject.model
    settings = subject.settings
    footnotes = [robust.note] if robust.note else []
    total = data.counts["test"]
    if robust.samples < total:
        footnotes.append(f"Evaluated on {robust.samples} of {total} test images.")
    extra = bool(settings.get("data.extra_path"))
    if extra:
        footnotes.append("It uses additional images in training.")
    return {
        "link": "",
        "name": subject.name,
        "authors": "",
        "additional_data": extra,
        "number_forward_passes": 1,
        "dataset": data.name,
        "venue": "",
        "architecture": model.name if isinstance(model, Classifier) else type(model).__name__,
        "eps": exact_radius(eps),
        "clean_acc": f"{clean:.2f}",
        "reported": f"{robust.accuracy:.2f}",
        "autoattack_acc": f"{robust.accuracy:.2f}",
        "footnote": " ".join(footnotes) or None,
        "unreliable": any(check.flagged for check in checks),
    }
