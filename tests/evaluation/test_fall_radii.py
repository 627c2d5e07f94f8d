"""Where test images fall on a curve, and what foretells it."""

from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.evaluation.fall_radii import fall_radii, rank_correlation
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.perturb.threat import Threat

INDICES, LABELS = np.array([7, 8, 9, 10, 11]), np.array([0, 1, 0, 1, 0])


def outcome(fooled_by: list[int]) -> Outcome:
    # The attack has not seen the second image.
    return Outcome(
        attack="pgd-5",
        positions=np.array([0, 2, 3, 4]),
        predicted=np.zeros(4, np.int64),
        fooled_by=np.array(fooled_by),
    )


def test_an_image_falls_at_the_smallest_radius_at_which_it_is_wrong() -> None:
    # Falls at the first, at the second, never, wrong without attack.
    outcomes = {
        Threat("Linf", 0.1): {"pgd-5": outcome([0, -1, -1, -2])},
        Threat("Linf", 0.2): {"pgd-5": outcome([0, 0, -1, -2])},
    }
    margins = Outcome(
        attack="margin",
        positions=np.arange(5),
        predicted=np.array([0, 0, 0, 1, 1]),
        fooled_by=np.full(5, -1),
        distances=np.array([0.1, 0.2, 0.3, 0.4, -0.5]),
    )
    found = fall_radii(outcomes, margins, "pgd-5", INDICES, LABELS)
    assert found.table().to_pydict() == {
        "index": [7, 9, 10, 11],
        "label": [0, 0, 1, 0],
        "predicted": [0, 0, 1, 1],
        "margin": [0.1, 0.3, 0.4, -0.5],
        "radius": [0.1, 0.2, None, 0.0],
    }
    assert found.right_unattacked.tolist() == [True, True, True, False]


def test_rank_correlation_shares_ranks_and_takes_infinite_values() -> None:
    one = np.array([1.0, 2, 2, 4, 5, 6, 7, 8, 9, np.inf])
    other = np.array([2.0, 1, 4, 3, 6, 5, 8, 7, 10, 9])
    found = rank_correlation(one, other)
    assert found is not None
    # Ranks of the first: 1, 2.5, 2.5, 4, ...; by hand as the correlation of those with the second.
    ranks = np.array([1, 2.5, 2.5, 4, 5, 6, 7, 8, 9, 10])
    assert found["value"] == pytest.approx(np.corrcoef(ranks, other)[0, 1], abs=1e-3)
    low, high = found["interval"]
    assert low < found["value"] <= high <= 1
    assert rank_correlation(-one, other)["value"] == -found["value"]  # type: ignore[index]


def test_where_there_is_nothing_to_rank_there_is_no_correlation() -> None:
    assert rank_correlation(np.arange(9.0), np.arange(9.0)) is None
    assert rank_correlation(np.ones(20), np.arange(20.0)) is None
