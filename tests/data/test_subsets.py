from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.data import balanced_subset, stratified_split, unevenness

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


@pytest.mark.parametrize("groups", [2, 4, 64])
def test_unevenness_tells_sorted_classes_from_random_ones(groups: int) -> None:
    labels = np.repeat(np.arange(100), 64)
    group = np.arange(len(labels)) * groups // len(labels)
    assert unevenness(labels, group) == pytest.approx(groups - 1, rel=0.3)
    mixed = np.random.default_rng(0).permutation(labels)
    assert abs(unevenness(mixed, group)) < 0.05
    assert unevenness(labels, np.zeros(len(labels), np.int64)) == 0.0
    assert unevenness(np.zeros(6, np.int64), np.arange(6) % 2) == 0.0
