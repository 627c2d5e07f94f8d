"""What the trials of a search gain over the default setting, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dynat_ray.evaluation.answers import read_answers
from dynat_ray.evaluation.differences import paired_difference
from dynat_ray.evaluation.results import OUTCOMES, VALIDATION_OUTCOMES
from dynat_ray.report.difference_rows import DifferenceRow
from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial, trial_folder

_DEFAULT = "default setting"


def winner_differences(
    folder: Path, best: Trial | None, attacks: Sequence[str]
) -> list[DifferenceRow]:
    """Returns how the winner does against the default setting on the test split.

    Args:
        folder: The search's.
        best: The winner; if it is the default setting, nothing differs.
        attacks: What both were measured under.
    """
    if best is None or best.number == DEFAULT_TRIAL:
        return []
    return _differences(folder, best, attacks, OUTCOMES, f"trial {best.number}")


def judged_differences(folder: Path, judged: Sequence[Trial], attack: str) -> dict[int, str]:
    """Returns what finalists gain under the attack that chose among them, on held-out images.

    Args:
        folder: The search's.
        judged: Finalists.
        attack: That chose.

    Returns:
        Such as `+1.4 (-0.2 to +3.0)` by number; trials without are left out.
    """
    words = {}
    for trial in judged:
        if trial.number == DEFAULT_TRIAL:
            continue
        for row in _differences(folder, trial, [attack], VALIDATION_OUTCOMES, ""):
            words[trial.number] = f"{row.difference.points:+.1f} ({row.interval_text()})"
    return words


def _differences(
    folder: Path, trial: Trial, measures: Sequence[str], file: str, name: str
) -> list[DifferenceRow]:
    files = [trial_folder(folder, number) / file for number in (trial.number, DEFAULT_TRIAL)]
    if not all(each.exists() for each in files):
        return []
    ours, theirs = (read_answers(each, measures, model="best") for each in files)
    return [
        DifferenceRow(name, _DEFAULT, measure, paired_difference([(answers, theirs[measure])]))
        for measure, answers in ours.items()
        if measure in theirs and np.array_equal(answers.index, theirs[measure].index)
    ]
