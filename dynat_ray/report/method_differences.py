"""Differences between the methods of a comparison, from what their runs say of every test image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from dynat_ray.errors import UserError
from dynat_ray.evaluation.answers import Answers, read_answers
from dynat_ray.evaluation.differences import paired_difference
from dynat_ray.evaluation.results import OUTCOMES
from dynat_ray.report.difference_rows import DifferenceRow
from dynat_ray.shown_text import shown_text

# Of the end of training, which no choice has favoured.
MODEL = "last"
# Of so many methods every pair is compared, of more each with the first.
_MOST_FOR_ALL_PAIRS = 4

# What the runs of a method say: by seed, then by measure.
_Runs = dict[int, dict[str, Answers]]


def measures_of(attacks: Sequence[str]) -> list[str]:
    """Returns what is compared: clean, CW and AutoAttack; all attacks where there are neither."""
    chosen = [name for name in attacks if name.startswith(("clean", "cw", "autoattack"))]
    return chosen if any(name != "clean" for name in chosen) else list(attacks)


def method_differences(
    folder_of: Callable[[str, int], Path],
    seeds: Mapping[str, Sequence[int]],
    measures: Sequence[str],
    first: str,
) -> tuple[list[DifferenceRow], list[str]]:
    """Compares methods on the same test images, paired by seed.

    Args:
        folder_of: Returns the folder of a method's run with a seed.
        seeds: Of the runs that have ended, by method.
        measures: Names of attacks, or `clean`.
        first: The method that all others are compared with.

    Returns:
        A row for each pair and measure, those with the first method first; and a sentence for each
        pair that is not paired over all seeds.

    Raises:
        UserError: Runs were evaluated on different images, or a file can't be read.
    """
    runs = {
        label: {
            seed: read_answers(file, measures, model=MODEL)
            for seed in own
            if (file := folder_of(label, seed) / OUTCOMES).exists()
        }
        for label, own in seeds.items()
    }
    rows, notes = [], []
    for a, b in _pairs([label for label, found in runs.items() if found], first):
        shared = [seed for seed in runs[a] if seed in runs[b]]
        notes += _unpaired(a, b, runs, shared)
        for measure in measures if shared else ():
            pairs = [(runs[a][seed][measure], runs[b][seed][measure]) for seed in shared]
            _require_same_images(a, b, measure, pairs)
            rows.append(DifferenceRow(a, b, measure, paired_difference(pairs)))
    return rows, notes


def _pairs(labels: Sequence[str], first: str) -> list[tuple[str, str]]:
    ordered = sorted(labels, key=lambda label: label != first)
    pairs = list(combinations(ordered, 2))
    if len(ordered) > _MOST_FOR_ALL_PAIRS:
        pairs = [pair for pair in pairs if pair[0] == ordered[0]]
    return pairs


def _unpaired(a: str, b: str, runs: Mapping[str, _Runs], shared: Sequence[int]) -> list[str]:
    """Returns a sentence if one of two methods has seeds that the other lacks."""
    alone = sorted((runs[a].keys() | runs[b].keys()) - set(shared))
    if not alone:
        return []
    left_out = ", ".join(map(str, alone))
    paired = f"paired over {', '.join(map(str, shared))}" if shared else "not compared"
    names = f"{shown_text(a)} and {shown_text(b)}"
    return [f"{names} do not have the same seeds: {paired}, without {left_out}"]


def _require_same_images(
    a: str, b: str, measure: str, pairs: Sequence[tuple[Answers, Answers]]
) -> None:
    first = pairs[0][0].index
    if not all(np.array_equal(first, each.index) for pair in pairs for each in pair):
        raise UserError(
            f"{shown_text(a)} and {shown_text(b)} were evaluated on other images under {measure}; "
            "compare them anew under another --name"
        )
