"""An entry in the format of RobustBench's `model_info` (Croce et al., NeurIPS Datasets 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynat_ray.data import DatasetInfo
from dynat_ray.evaluation.checks import Check
from dynat_ray.evaluation.outcomes import AttackOutcomes
from dynat_ray.evaluation.shard_outcome import WRONG_WHEN_CLEAN
from dynat_ray.evaluation.subject import Subject
from dynat_ray.models import Classifier
from dynat_ray.perturb.threat import Threat
from dynat_ray.radius import exact_radius

# Of several threats, the first of these is entered.
_LEADERBOARDS = (Threat("Linf", 8 / 255), Threat("Linf", 4 / 255), Threat("L2", 0.5))
_TOLERANCE = 1e-9
_ATTACK = "autoattack"


def robustbench_entry(
    outcomes: AttackOutcomes,
    subject: Subject,
    data: DatasetInfo,
    checks: Sequence[Check],
) -> dict[str, Any] | None:
    """Returns the entry, JSON values; None if AutoAttack was run under no threat.

    What an evaluation does not know (paper, authors, venue) is left empty for the user.

    Args:
        outcomes: What the attacks did, for each threat.
        subject: The model.
        data: The data set.
        checks: All checks of the evaluation; one flag makes the entry `unreliable`.
    """
    threat = _leaderboard_threat(outcomes)
    if threat is None:
        return None
    robust = outcomes[threat][_ATTACK]
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
        "eps": exact_radius(threat.eps),
        "clean_acc": f"{clean:.2f}",
        "reported": f"{robust.accuracy:.2f}",
        "autoattack_acc": f"{robust.accuracy:.2f}",
        "footnote": " ".join(footnotes) or None,
        "unreliable": any(check.flagged for check in checks),
    }


def _leaderboard_threat(outcomes: AttackOutcomes) -> Threat | None:
    """Returns the threat to enter; None: AutoAttack was run under none."""
    threats = [threat for threat, found in outcomes.items() if threat.eps > 0 and _ATTACK in found]
    for listed in _LEADERBOARDS:
        for threat in threats:
            if threat.norm == listed.norm and abs(threat.eps - listed.eps) < _TOLERANCE:
                return threat
    return max(threats, key=lambda threat: threat.eps, default=None)
