"""An interval for the difference of two proportions on the same images, exact for any counts."""

from __future__ import annotations

import numpy as np

# Quantiles over which the interval's first parameter is integrated.
_POINTS = 500


def matched_pairs_interval(ahead: float, behind: float, images: int) -> tuple[float, float]:
    """Returns the 95 % interval of (share of images ahead) minus (share of images behind).

    The interval of Fay and Lumbard (Statistics in Medicine 40:1147, 2021; R: `mcnemarExactDP`):
    it leaves out 0 exactly where McNemar's exact test rejects at 5 %, and is right for few images
    that differ and for none. Two Clopper-Pearson confidence distributions, of the share T of images
    that differ and of the share B of those that are ahead, are melded into one of T (2 B - 1).

    Args:
        ahead: Images that only the first model has right; a fraction where it is an estimate.
        behind: Images that only the second one has right.
        images: All, at least 1.

    Returns:
        Low and high, in [-1, 1].
    """
    return _low(ahead, behind, images), -_low(behind, ahead, images)


def _low(ahead: float, behind: float, images: int) -> float:
    """Returns the lower end: the 2.5 % quantile of T (2 B - 1)."""
    # They take time to import, which workers need not wait for.
    from scipy.optimize import brentq
    from scipy.special import betainc, betaincinv

    differ, level = ahead + behind, 0.025
    if ahead <= 0:
        # Clopper-Pearson's lower distribution of B is 0 then.
        fewest = betaincinv(differ + 1, images - differ, 1 - level) if differ < images else 1.0
        return -float(fewest)
    share_ahead = (ahead, behind + 1)
    rejects = betainc(*share_ahead, 0.5) <= level
    # Where B is above a half, fewer images that differ mean a smaller difference; else more do.
    shapes = (differ, images - differ + 1) if rejects else (differ + 1, images - differ)
    quantiles = (np.arange(_POINTS) + 0.5) / _POINTS
    share_differ = betaincinv(*shapes, quantiles) if shapes[1] > 0 else np.ones(_POINTS)

    def excess(difference: float) -> float:
        share = ((1 + difference / share_differ) / 2).clip(0, 1)
        return float(betainc(*share_ahead, share).mean()) - level

    return float(brentq(excess, -1.0, 1.0, xtol=1e-7))
