"""Parts of a data set in which every class keeps its share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def balanced_subset(labels: NDArray[np.integer], count: int, seed: int = 0) -> Indices:
    """Chooses `count` samples, as equally many of each class as there are.

    Args:
        labels: Label of each sample, `(N,)`.
        count: How many; 0, or N and more: all.
        seed: Seed of the choice.

    Returns:
        Sorted positions in `labels`, int64.
    """
    if count <= 0 or count >= len(labels):
        return np.arange(len(labels))
    generator = np.random.default_rng([seed, 1])
    members = _members(labels, generator)
    # Turn after turn each class gives one: small classes run dry, the others fill up.
    turns = np.concatenate([np.arange(len(each)) for each in members])
    order = np.argsort(turns + generator.random(len(turns)), kind="stable")
    return np.sort(np.concatenate(members)[order[:count]])


def stratified_split(
    labels: NDArray[np.integer], fraction: float, seed: int = 0
) -> tuple[Indices, Indices]:
    """Splits a set in two so that every class is divided in the same proportion.

    Args:
        labels: Label of each sample, `(N,)`.
        fraction: Part in [0, 1) that goes into the second set. If it is not 0, the second set has
            a sample of every class that has at least two.
        seed: Seed of the choice.

    Returns:
        Sorted positions of the first and of the second set, int64.
    """
    chosen = np.zeros(len(labels), dtype=bool)
    if fraction > 0:
        for members in _members(labels, np.random.default_rng([seed, 2])):
            count = round(fraction * len(members))
            chosen[members[: min(max(count, 1), len(members) - 1)]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def unevenness(labels: NDArray[np.integer], groups: NDArray[np.integer]) -> float:
    """Returns how far groups of samples are from having classes in the same proportions.

    Args:
        labels: Class of each sample, `(N,)`.
        groups: Group of each sample, `(N,)`.

    Returns:
        The mean square of (share of a class in a group / its share in all) - 1, which is chi-square
        by N, without what random groups have on average: 0 for these, about G - 1 where each class
        is in one of G groups alone.
    """
    counts = np.zeros((groups.max() + 1, labels.max() + 1))
    np.add.at(counts, (groups, labels), 1)
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / len(labels)
    freedom = np.prod(np.array(counts.shape) - 1)
    return float(((counts - expected) ** 2 / expected).sum() - freedom) / len(labels)


def _members(labels: NDArray[np.integer], generator: np.random.Generator) -> list[Indices]:
    """Returns the positions of each class, shuffled."""
    return [generator.permutation(np.flatnonzero(labels == each)) for each in np.unique(labels)]
