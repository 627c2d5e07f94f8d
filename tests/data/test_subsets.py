from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.data import balanced_subset, stratified_split

LABELS = np.repeat([0, 1, 2, 3], [50, 30, 3, 1])


def test_balanced_subset_takes_equally_many_until_a_class_runs_dry() -> None:
    chosen = balanced_subset(LABELS, 24)
    assert np.bincount(LABELS[chosen]).tolist() == [10, 10, 3, 1]
    assert np.all(np.diff(chosen) > 0)


def test_balanced_subset_differs_by_at_most_one_where_it_does_not_divide() -> None:
    counts = np.bincount(LABELS[balanced_subset(LABELS[:80], 7)])
    assert sorted(counts.tolist()) == [3, 4]


@pytest.mark.parametrize("count", [0, 84, 1000])
def test_balanced_subset_takes_all(count: int) -> None:
    assert balanced_subset(LABELS, count).tolist() == list(range(84))


def test_balanced_subset_depends_on_the_seed_alone() -> None:
    first = balanced_subset(LABELS, 20, seed=1)
    assert np.array_equal(first, balanced_subset(LABELS, 20, seed=1))
    assert not np.array_equal(first, balanced_subset(LABELS, 20, seed=2))


def test_stratified_split_keeps_the_share_of_every_class() -> None:
    first, second = stratified_split(LABELS, 0.2, seed=0)
    assert np.array_equal(np.sort(np.concatenate([first, second])), np.arange(84))
    # The class of one stays in the first set; that of three gives one.
    assert np.bincount(LABELS[second], minlength=4).tolist() == [10, 6, 1, 0]


def test_stratified_split_of_nothing() -> None:
    first, second = stratified_split(LABELS, 0.0)
    assert len(first) == 84
    assert len(second) == 0
