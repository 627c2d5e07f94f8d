"""The difference between two models on the same test images, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynat_ray.evaluation.answers import Answers
from dynat_ray.evaluation.matched_pairs import matched_pairs_interval
from dynat_ray.evaluation.second_stage import estimate_of_these

_TAIL = 0.975


@dataclass(frozen=True)
class Difference:
    """Accuracy of a model, or of a method's models, minus that of another.

    Attributes:
        points: The difference, in percentage points.
        low: Lower end of its 95 % interval.
        high: Upper end.
        seeds: Pairs of models, one for each seed.
        images: That every model saw.
    """

    points: float
    low: float
    high: float
    seeds: int
    images: int

    @property
    def verdict(self) -> str:
        """What the interval says: `ahead`, `behind`, or `no difference` where it holds 0."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "no difference"


def paired_difference(pairs: Sequence[tuple[Answers, Answers]]) -> Difference:
    """Returns the difference between two methods under one measure, a minus b.

    One seed: how these two models differ on images like these (`matched_pairs_interval`). Several
    seeds: how models of these methods differ, over images *and* seeds (see `_over_seeds`).

    Where the last stages of an attack saw a part of the images, images they did not see count with
    the chance that they are right, and what that leaves open is added in squares to the margins
    (the MOVER of Zou and Donner, Statistics in Medicine 27:1693, 2008).

    Args:
        pairs: For each seed what a model of either method says of the same images, `(n,)` each.
    """
    assert all(np.array_equal(a.index, b.index) for a, b in pairs), "other images"
    chances = np.array([[a.chances(), b.chances()] for a, b in pairs])
    differences = chances[:, 0] - chances[:, 1]
    open_variance = (chances * (1 - chances)).sum(axis=1)
    seeds, images = differences.shape
    points = float(differences.mean())
    if seeds == 1:
        margins = _one_seed(differences[0], open_variance[0])
    else:
        margin = _over_seeds(differences, open_variance)
        margins = np.array([margin, margin])
    squares = [_second_stage(a) ** 2 + _second_stage(b)[::-1] ** 2 for a, b in pairs]
    low, high = np.sqrt(margins**2 + np.sum(squares, axis=0) / seeds**2)
    return Difference(
        points=100 * points,
        low=100 * max(-1.0, points - float(low)),
        high=100 * min(1.0, points + float(high)),
        seeds=seeds,
        images=images,
    )


def _one_seed(
    differences: NDArray[np.float64], open_variance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Returns how far the interval for the choice of images reaches down and up, `(2,)`.

    Args:
        differences: The chance that the first model is right, minus that of the second, `(n,)`.
        open_variance: Of the difference around that, `(n,)`.
    """
    images, sum_of_differences = len(differences), float(differences.sum())
    # The expected number of images that differ: where both are known, the number.
    differ = float((differences**2 + open_variance).sum())
    ahead, behind = (differ + sum_of_differences) / 2, (differ - sum_of_differences) / 2
    low, high = matched_pairs_interval(max(0.0, ahead), max(0.0, behind), images)
    points = sum_of_differences / images
    return np.array([points - low, high - points])


def _over_seeds(differences: NDArray[np.float64], open_variance: NDArray[np.float64]) -> float:
    """Returns the margin of the mean difference for the choice of images and of seeds.

    Images and seeds are crossed random effects (Searle, Casella and McCulloch, Variance Components,
    1992, chapter 4): `d_is = mean + image_i + seed_s + rest_is`. The variance between the seeds'
    means holds seeds and rest, that between the images' means images and rest. With few seeds the
    first is uncertain, so that each part has its own Student quantile and the margins are added in
    squares, which is not too narrow for any share of either (Banerjee, Sankhya 22:351, 1960). The
    rest counts once, with the seeds. Where the images alone give more, that counts. z^2 images that
    differ are added, half of them ahead, so that it is right for few (after Agresti and Coull, The
    American Statistician 52:119, 1998).

    Args:
        differences: As in `_one_seed`, for each seed, `(S, n)` with S at least 2.
        open_variance: Likewise.
    """
    from scipy.stats import t

    seeds, images = differences.shape
    more_seeds, more_images = seeds - 1, max(images - 1, 1)
    of_images, of_seeds = differences.mean(axis=0), differences.mean(axis=1)
    mean = differences.mean()
    rest = differences - of_images - of_seeds[:, None] + mean
    rest_variance = (rest**2).sum() / more_seeds / more_images + open_variance.mean()
    # Variances of the mean over all.
    by_rest = rest_variance / (seeds * images)
    by_seeds = ((of_seeds - mean) ** 2).sum() / more_seeds / seeds
    between_images = ((of_images - mean) ** 2).sum() + open_variance.sum() / seeds**2
    by_images = between_images / more_images / images
    quantile, seed_quantile = t.ppf(_TAIL, more_images), t.ppf(_TAIL, more_seeds)
    added = (quantile / images) ** 2
    images_alone = quantile**2 * (by_images + added)
    images_and_seeds = (
        quantile**2 * (max(0.0, by_images - by_rest) + added) + seed_quantile**2 * by_seeds
    )
    return float(np.sqrt(max(images_alone, images_and_seeds)))


def _second_stage(answers: Answers) -> NDArray[np.float64]:
    """Returns how far the accuracy on these images may lie below and above its estimate, `(2,)`."""
    these = estimate_of_these(answers.right, answers.second_stage)
    return np.array([these.accuracy - these.low, these.high - these.accuracy]) / 100
