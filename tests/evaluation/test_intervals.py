from __future__ import annotations

import pytest

from dynat_ray.evaluation.intervals import wilson_interval


def test_known_values() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    assert wilson_interval(81, 263) == pytest.approx((25.53, 36.62), abs=0.005)
    assert wilson_interval(15, 148) == pytest.approx((6.24, 16.05), abs=0.005)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 16.11), abs=0.005)
    assert wilson_interval(1, 29) == pytest.approx((0.61, 17.18), abs=0.005)


def test_stays_within_bounds_and_holds_the_estimate() -> None:
    for trials in (1, 2, 7, 1000):
        for successes in {0, 1, trials // 2, trials}:
            low, high = wilson_interval(successes, trials)
            assert 0 <= low <= 100 * successes / trials <= high <= 100


def test_mirrors() -> None:
    low, high = wilson_interval(3, 50)
    assert wilson_interval(47, 50) == pytest.approx((100 - high, 100 - low))
