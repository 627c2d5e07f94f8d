from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from scipy.stats import hypergeom

from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.results import write_samples
from dynat_ray.evaluation.second_round import draw_second_stage
from dynat_ray.evaluation.second_stage import (
    Counts,
    SecondStage,
    estimate_accuracy,
    estimate_of_these,
    wilson,
)
from dynat_ray.perturb.threat import Threat


def _stage(stratum: list[int], tried: list[int]) -> SecondStage:
    return SecondStage(np.array(stratum, dtype=np.int8), np.array(tried, dtype=bool))


def test_tried_samples_stand_for_their_stratum() -> None:
    stage = _stage([-1, 0, 0, 1, 1, 1, 1, -1], [0, 1, 1, 0, 1, 1, 0, 0])
    assert stage.weights().tolist() == [1, 1, 1, 0, 2, 2, 0, 1]


def test_an_estimate_by_hand() -> None:
    # Two wrong; stratum 0: one of two fell; stratum 1: one of the two tried fell, of four.
    stage = _stage([-1, -1, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0])
    correct = np.array([0, 0, 0, 1, 0, 1, 1, 1], dtype=bool)
    estimate = estimate_accuracy(correct, stage)
    assert estimate.accuracy == pytest.approx(100 * (6 - 1 - 2) / 8)
    assert estimate.accuracy == pytest.approx(100 * (stage.weights() * correct).sum() / 8)
    these = estimate_of_these(correct, stage)
    # Of four, two of which are not known, one to three can fall.
    assert (these.low, these.high) == (pytest.approx(25), pytest.approx(50))
    low, high = wilson(3 / 8, 8)
    assert estimate.low == pytest.approx(37.5 - 100 * np.hypot(3 / 8 - low, 1 / 8))
    assert estimate.high == pytest.approx(37.5 + 100 * np.hypot(high - 3 / 8, 1 / 8))


def test_without_a_sample_it_is_wilson() -> None:
    correct = np.arange(50) < 20
    low, high = wilson(0.4, 50)
    everybody = SecondStage(np.where(np.arange(50) < 30, 0, -1).astype(np.int8), np.arange(50) < 30)
    for stage in (None, everybody):
        estimate = estimate_accuracy(correct, stage)
        assert (estimate.accuracy, estimate.low, estimate.high) == pytest.approx(
            (40, 100 * low, 100 * high)
        )


def test_an_attack_that_nobody_survives() -> None:
    estimate = estimate_accuracy(np.zeros(9, dtype=bool), _stage([-1] * 9, [0] * 9))
    assert estimate.accuracy == estimate.low == 0
    assert estimate.high == pytest.approx(100 * wilson(0, 9)[1])


@pytest.mark.parametrize(
    ("survivors", "tried", "fell"), [(50, 10, 0), (50, 10, 3), (50, 10, 10), (500, 40, 1)]
)
def test_bounds_are_where_the_tails_end(survivors: int, tried: int, fell: int) -> None:
    """Against all possible numbers, one by one."""
    falling = np.arange(fell, survivors - tried + fell + 1)
    half = hypergeom.pmf(fell, survivors, falling, tried) / 2
    few = hypergeom.cdf(fell, survivors, falling, tried) - half > 0.025
    many = hypergeom.sf(fell, survivors, falling, tried) + half > 0.025
    low, high = Counts(survivors, tried, fell).bounds()
    assert low == min(falling[many].min(initial=survivors), survivors * fell / tried)
    assert high == max(falling[few].max(initial=0), survivors * fell / tried)


def test_who_was_not_tried_may_all_fall() -> None:
    assert Counts(7, 0, 0).bounds() == (0, 7)
    assert Counts(7, 7, 2).bounds() == (2, 2)


# Share of survivors that fall to the last stages, by their rank in margin, in [0, 1].
_FALLING: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "none": lambda rank: 0 * rank,
    "few, of the smallest margins": lambda rank: 0.05 * np.exp(-rank / 0.05),
    "few, wherever": lambda rank: 0.1 * np.exp(-rank / 0.05) + 0.002,
    "some, wherever": lambda rank: 0 * rank + 0.02,
    "many": lambda rank: 0.3 * np.exp(-rank / 0.2),
}


def test_the_interval_holds_the_truth_in_95_of_100_populations() -> None:
    """1,000 populations of images: small and large, weak and robust models."""
    random = np.random.default_rng(0)
    middles = (np.arange(10_000) + 0.5) / 10_000
    means = [1 - falls(middles).mean() for falls in _FALLING.values()]
    held = 0
    for number in range(1000):
        falls = list(_FALLING.values())[number % 5]
        images = (200, 1000, 5000)[number // 5 % 3]
        surviving = (0.2, 0.5, 0.85)[number // 15 % 3]
        second_stage = (40, 200)[number // 45 % 2]
        # Ranks and margins are one and the same.
        margins = random.random(images)
        survives = random.random(images) < surviving
        outcome = _outcome(np.where(survives, -1, 0), margins)
        drawn = draw_second_stage(outcome, second_stage, seed=(number,)).second_stage
        assert drawn is not None
        fell = survives & (random.random(images) < falls(margins)) & drawn.tried
        estimate = estimate_accuracy(survives & ~fell, drawn)
        truth = 100 * surviving * means[number % 5]
        held += estimate.low <= truth <= estimate.high
    assert held >= 950


def _outcome(fooled_by: NDArray[np.int64], margins: NDArray[np.float64]) -> Outcome:
    return Outcome(
        attack="autoattack-sampled",
        positions=np.arange(len(fooled_by)),
        predicted=np.zeros(len(fooled_by), dtype=np.int64),
        fooled_by=fooled_by,
        stages=("apgd-ce", "apgd-t", "fab-t", "square"),
        margins=margins,
    )


def test_rows_say_who_was_tried(tmp_path: Path) -> None:
    outcome = Outcome(
        attack="autoattack-sampled",
        positions=np.array([0, 2, 3]),
        predicted=np.array([5, 1, 1]),
        fooled_by=np.array([0, -1, -1]),
        stages=("apgd-ce", "apgd-t", "fab-t", "square"),
        second_stage=_stage([-1, 0, 0], [0, 1, 0]),
    )
    unattacked = Outcome("autoattack-sampled", outcome.positions, np.ones(3), np.array([-1] * 3))
    file = tmp_path / "a.parquet"
    found = {Threat("Linf", eps): {o.attack: o} for eps, o in ((0.0, unattacked), (0.1, outcome))}
    write_samples(file, found, {}, np.arange(4), np.ones(4, dtype=np.int64))
    columns = pq.read_table(file).to_pydict()
    nothing = [None] * 4
    assert columns["autoattack-sampled.stratum"] == [*nothing, -1, None, 0, 0]
    assert columns["autoattack-sampled.tried"] == [*nothing, False, None, True, False]
    assert columns["autoattack-sampled.correct"] == [
        True,
        None,
        True,
        True,
        False,
        None,
        True,
        True,
    ]
