"""How many test images and seeds it takes to tell two methods apart."""

from __future__ import annotations

import math

# Of the standard normal distribution: of an interval of 95 %, and to find four of five differences.
_INTERVAL, _POWER = 1.960, 0.842


def images_needed(points: float, *, seeds: int, differ: float, seed_deviation: float) -> int | None:
    """Returns how many images it takes to find a difference in four of five comparisons.

    That is, for its 95 % interval (`dynat_ray.evaluation.differences`) to leave out 0. What images
    have in common between seeds is not known before, so all of it is taken to be.

    Args:
        points: The difference, in percentage points, above 0.
        seeds: 1: how these two models differ; more: how the methods do.
        differ: Share of images that only one of two models has right, in (0, 1].
        seed_deviation: Standard deviation of the difference between seeds, in points; with one seed
            it plays no part.

    Returns:
        The number, or None where no number of images makes up for so few seeds.
    """
    # It takes a second to import, which workers need not wait for.
    from scipy.optimize import brentq
    from scipy.stats import t

    by_seeds = seed_deviation**2 / seeds if seeds > 1 else 0.0
    quantile = float(t.ppf(0.975, seeds - 1)) if seeds > 1 else 0.0

    def missed(by_images: float) -> float:
        """Returns how far the difference is from being found, given both variances."""
        margin = math.sqrt(_INTERVAL**2 * by_images + quantile**2 * by_seeds)
        return margin + _POWER * math.sqrt(by_images + by_seeds) - points

    if missed(0.0) >= 0:
        return None
    return math.ceil(1e4 * differ / brentq(missed, 0.0, points**2))
