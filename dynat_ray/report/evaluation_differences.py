"""Differences between an evaluation and others of the same images, norm, eps and attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynat_ray.attacks.registry import CLEAN, get_attack
from dynat_ray.errors import UserError
from dynat_ray.evaluation.answers import Answers, read_answers
from dynat_ray.evaluation.differences import Difference, paired_difference
from dynat_ray.radius import exact_radius, format_radius
from dynat_ray.report.difference_rows import DifferenceRow
from dynat_ray.report.side_by_side import Evaluation, labels_of
from dynat_ray.shown_text import shown_text

# Estimates the accuracy that the whole attack leaves.
_SAMPLED, _WHOLE = "autoattack-sampled", "autoattack"
# Radii that are written in different ways differ by less.
_DIGITS = 9


def require_comparable(
    settings: Mapping[str, Any], data_checksum: str, others: Sequence[Evaluation]
) -> None:
    """Raises `UserError` if an evaluation can't be compared with another one image by image.

    Args:
        settings: What is to be evaluated, `EvaluationPlan.settings`.
        data_checksum: Of its data set.
        others: Earlier evaluations.
    """
    for other in others:
        unlike = [
            *_unlike_images(settings, data_checksum, other),
            *_unlike_radii(settings, other),
            *_unlike_attacks(settings["attacks"], other.attacks),
        ]
        label = shown_text(str(other.file))
        if unlike:
            raise UserError(f"{label} can't be compared: {'; '.join(unlike)}")
        if not (file := file_of_samples(other)).exists():
            raise UserError(f"{label} can't be compared without {shown_text(file.name)} beside it")


def evaluation_differences(
    evaluation: Evaluation, others: Sequence[Evaluation]
) -> list[DifferenceRow]:
    """Returns how an evaluation does against each other one, under each attack at each eps.

    Args:
        evaluation: This one; its per-sample file is written.
        others: Comparable ones.

    Raises:
        UserError: A file can't be read, or is not of the same images.
    """
    label, *labels = labels_of([evaluation, *others])
    measures = _measures(evaluation)
    return [
        DifferenceRow(label, name, column, _difference(evaluation, other, attack, place))
        for other, name in zip(others, labels, strict=True)
        for column, (attack, place) in measures.items()
    ]


def file_of_samples(evaluation: Evaluation) -> Path:
    """Returns the parquet file with the outcomes of every sample."""
    return evaluation.file.with_name(str(evaluation.content["outcomes"]))


def _measures(evaluation: Evaluation) -> dict[str, tuple[str, int]]:
    """Returns what is compared: attack and place of its eps, by the measure's name.

    Without attack eps says nothing, and at eps 0 attacks say nothing.
    """
    several = len(evaluation.points) > 1
    measures: dict[str, tuple[str, int]] = {}
    for place, (eps, results) in enumerate(evaluation.points.items()):
        radius = f", {evaluation.norm} {format_radius(eps, evaluation.norm)}" * several
        for attack in results:
            if attack == CLEAN:
                measures.setdefault(attack, (attack, place))
            elif eps > 0:
                measures[f"{attack}{radius}"] = attack, place
    return measures


def _difference(evaluation: Evaluation, other: Evaluation, attack: str, place: int) -> Difference:
    theirs = attack
    if attack not in other.attacks:
        theirs = _SAMPLED if attack == _WHOLE else _WHOLE
    mine, compared = _answers(evaluation, attack, place), _answers(other, theirs, place)
    if not np.array_equal(mine.index, compared.index):
        raise UserError(f"{shown_text(str(file_of_samples(other)))} is not of the same images")
    return paired_difference([(mine, compared)])


def _answers(evaluation: Evaluation, attack: str, place: int) -> Answers:
    file, eps = file_of_samples(evaluation), list(evaluation.points)[place]
    found = read_answers(file, [attack], eps=eps)
    if attack not in found:
        raise UserError(f"{shown_text(str(file))} has nothing of {attack}")
    return found[attack]


def _unlike_images(settings: Mapping[str, Any], data_checksum: str, other: Evaluation) -> list[str]:
    if other.content["checksums"]["data"] != data_checksum:
        return ["it is of other images, those of another data set"]
    if (split := other.content.get("split", "test")) != settings["split"]:
        return [f"it is of the {split} split, not of the {settings['split']} split"]
    if other.content["samples"] != settings["samples"]:
        return [f"it is of {other.content['samples']} test images, not {settings['samples']}"]
    counts = {}
    for attack in settings["attacks"]:
        seen = settings["costly_samples" if get_attack(attack).costly else "samples"]
        for results in other.points.values():
            if attack in results and results[attack]["samples"] != seen:
                counts[attack] = f"under {attack} it is of {results[attack]['samples']} test images"
                counts[attack] += f", not {seen}"
    return list(counts.values())


def _unlike_radii(settings: Mapping[str, Any], other: Evaluation) -> list[str]:
    if other.norm != settings["norm"]:
        return [f"its norm is {other.norm}, not {settings['norm']}"]
    ours, theirs = (
        [round(eps, _DIGITS) for eps in each] for each in (settings["eps"], other.points)
    )
    if ours == theirs:
        return []
    words = [", ".join(map(exact_radius, each)) for each in (other.points, settings["eps"])]
    return [f"its eps is {words[0]}, not {words[1]}"]


def _unlike_attacks(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    def measured(attacks: Sequence[str]) -> set[str]:
        return {_WHOLE if name == _SAMPLED else name for name in attacks}

    lacks = sorted(measured(ours) - measured(theirs))
    more = sorted(measured(theirs) - measured(ours))
    return [f"it has no {', '.join(lacks)}"] * bool(lacks) + [
        f"this one has no {shown_text(', '.join(more))}"
    ] * bool(more)
