"""How far a measured accuracy may be from the true one."""

from __future__ import annotations

import math

# Two-sided 95 % point of the standard normal distribution.
_Z_95 = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a proportion, in percent.

    Wilson's score interval (E. B. Wilson 1927): unlike the normal approximation it stays inside
    [0, 100] and is right near both ends, where robust accuracies often are.

    Args:
        successes: Samples that were right, in [0, trials].
        trials: Samples looked at, at least 1.
    """
    assert trials > 0
    assert 0 <= successes <= trials, (successes, trials)
    share, square = successes / trials, _Z_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    half *= _Z_95 / (1 + square / trials)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return 100 * low, 100 * high
