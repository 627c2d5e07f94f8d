"""Whom the sampled stages of an attack see, and what they change of its outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dynat_ray.attacks.registry import get_attack
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.second_stage import SecondStage

# Those survivors whose margin is smallest fall first, and are all tried. Of two samples of one size
# the one with the smaller share here and more of the others has the narrower interval.
_SMALLEST_SHARE = 0.02


def draw_second_stage(outcome: Outcome, count: int, seed: Sequence[int]) -> Outcome:
    """Returns the outcome of the first stages with whom the last ones are to see.

    Stratum 0, the fiftieth of the survivors with the smallest margins, is tried whole; of the
    others, stratum 1, a simple random sample of `count`, or all where there are fewer.

    Args:
        outcome: With margins.
        count: At least 1.
        seed: The draw follows from it and from the outcome.
    """
    assert outcome.margins is not None
    survivors = outcome.correct.nonzero()[0]
    # Stable: equal margins stay in the order of the samples.
    survivors = survivors[np.argsort(outcome.margins[survivors], kind="stable")]
    smallest = math.ceil(_SMALLEST_SHARE * len(survivors))
    stratum = np.full(outcome.samples, -1, dtype=np.int8)
    stratum[survivors[:smallest]] = 0
    stratum[survivors[smallest:]] = 1
    rest = survivors[smallest:]
    chosen = np.random.default_rng(seed).permutation(len(rest))[:count]
    tried = stratum == 0
    tried[rest[chosen]] = True
    return replace(outcome, second_stage=SecondStage(stratum, tried))


def with_second_stage(outcome: Outcome, tried: Outcome | None, before: Outcome | None) -> Outcome:
    """Returns the outcome of an attack's first stages with what its last ones found.

    Args:
        outcome: Of the first stages, with whom the last see.
        tried: Of those that were tried; None: nobody was.
        before: The whole outcome at the next smaller radius: what fell there falls here.
    """
    stage = outcome.second_stage
    assert stage is not None
    predicted, fooled_by = outcome.predicted.copy(), outcome.fooled_by.copy()
    if tried is not None:
        rows = np.searchsorted(outcome.positions, tried.positions)
        # A clean image on the edge may be wrong here; it was right before.
        fell = tried.fooled_by >= 0
        predicted[rows[fell]] = tried.predicted[fell]
        fooled_by[rows[fell]] = tried.fooled_by[fell]
    fallen = outcome.fallen_before
    if before is not None:
        fallen = before.fooled_by >= 0
        predicted[fallen] = before.predicted[fallen]
        fooled_by[fallen] = before.fooled_by[fallen]
        # Of those nothing has to be estimated any more. Draws at two radii know nothing of each
        # other, so that what is left of a sample is a sample of what is left.
        stage = SecondStage(np.where(fallen, np.int8(-1), stage.stratum), stage.tried & ~fallen)
    return replace(
        outcome,
        predicted=predicted,
        fooled_by=fooled_by,
        fallen_before=fallen,
        second_stage=stage,
        note="; ".join(filter(None, [outcome.note, _note(outcome)])),
        at_most=None if before is None else before.estimate,
    )


def _note(outcome: Outcome) -> str:
    attack = get_attack(outcome.attack)
    first, last = (
        " and ".join(stage.name for _, stage in attack.places(part)) for part in ("first", "last")
    )
    return f"{attack.name} is an estimate: {last} saw a sample of what {first} left right"
