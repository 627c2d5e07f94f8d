"""Draws and grid values of distributions."""

from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.searching.distributions import Choice, Range


def draws(distribution: Range | Choice, count: int = 4000) -> list[object]:
    generator = np.random.default_rng(0)
    return [distribution.draw(generator) for _ in range(count)]


def test_uniform() -> None:
    values = np.array(draws(Range(2, 4)), dtype=float)
    assert 2 <= values.min() < 2.01
    assert 3.99 < values.max() <= 4
    assert values.mean() == pytest.approx(3, abs=0.03)


def test_loguniform_spreads_over_the_decades() -> None:
    values = np.array(draws(Range(0.01, 100, log=True)), dtype=float)
    assert np.median(values) == pytest.approx(1, rel=0.2)
    assert values.min() >= 0.01
    assert values.max() <= 100


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_include_both_ends(log: bool) -> None:
    values = draws(Range(1, 4, whole=True, log=log))
    assert all(isinstance(value, int) for value in values)
    shares = np.bincount(np.array(values, dtype=int))[1:] / len(values)
    assert len(shares) == 4
    if not log:
        np.testing.assert_allclose(shares, 0.25, atol=0.03)
    else:
        assert (np.diff(shares) < 0).all()


def test_choice_draws_all() -> None:
    values = draws(Choice(("sgd", "adamw", None)), 300)
    assert {values.count(each) > 60 for each in ("sgd", "adamw", None)} == {True}


def test_grid_values() -> None:
    assert Range(0, 1).grid() == [0.0, 0.5, 1.0]
    assert Range(0.1, 10, log=True).grid() == pytest.approx([0.1, 1, 10])
    assert Range(0.1, 10, log=True).grid()[-1] == 10
    assert Range(1, 3, whole=True, points=9).grid() == [1, 2, 3]
    assert Choice(("a", "b")).grid() == ["a", "b"]


def test_position_is_what_a_draw_inverts() -> None:
    assert Range(0.1, 10, log=True).position(1.0) == pytest.approx(0.5)
    assert Range(2, 4).position(4) == 1
