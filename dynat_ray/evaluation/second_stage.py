"""Attacks whose last stages see a sample of what the first ones left right.

A two-phase design (Neyman 1938; Cochran, Sampling Techniques, 1977, chapter 12): all images go
through the first stages, the survivors are cut into strata, and of each stratum a simple random
sample goes through the last stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Of the standard normal distribution: a two-sided interval of 95 %.
_Z = 1.959964
_TAIL = 0.025


@dataclass(frozen=True)
class SecondStage:
    """Which samples the last stages of an attack were given.

    Attributes:
        stratum: int8 `(n,)`, for each sample the attack saw: -1 where the first stages left it
            wrong, else the number of the group that it was drawn from.
        tried: `(n,)`, whether it was given to the last stages; never where `stratum` is -1.
    """

    stratum: NDArray[np.int8]
    tried: NDArray[np.bool_]

    def weights(self) -> NDArray[np.float64]:
        """Returns how many samples each one stands for, `(n,)`; they add up to `n`.

        1 where the first stages left it wrong; else, with `n_h` tried of the `N_h` in its stratum,
        `N_h / n_h` where it was tried and 0 where it was not (Horvitz and Thompson 1952).
        """
        weights = np.ones(len(self.stratum))
        for number in range(int(self.stratum.max(initial=-1)) + 1):
            inside = self.stratum == number
            tried = inside & self.tried
            weights[inside] = 0.0
            weights[tried] = inside.sum() / max(1, tried.sum())
        return weights

    def counts(self, correct: NDArray[np.bool_]) -> Iterator[Counts]:
        """Yields the counts of each stratum; `correct` `(n,)` as in `Outcome`."""
        for number in range(int(self.stratum.max(initial=-1)) + 1):
            inside = self.stratum == number
            tried = inside & self.tried
            fell = tried & ~correct
            yield Counts(int(inside.sum()), int(tried.sum()), int(fell.sum()))


@dataclass(frozen=True)
class Counts:
    """Of a stratum: how many survived the first stages, were tried, and fell then."""

    survivors: int
    tried: int
    fell: int

    @property
    def expected(self) -> float:
        """How many would fall if all were tried: `N_h f_h / n_h`."""
        return self.survivors * self.fell / max(1, self.tried)

    @lru_cache(maxsize=4096)  # noqa: B019  three numbers keep no memory
    def bounds(self) -> tuple[float, float]:
        """Returns 95 % bounds of how many would fall if all were tried.

        The hypergeometric distribution inverted, with mid-p tails (Lancaster 1961): right also
        where none fell, and without width where all were tried.
        """
        if self.tried == 0:
            return 0, self.survivors
        least = self._bound(self.fell, -1)
        most = self._bound(self.survivors - self.tried + self.fell, 1)
        return min(least, self.expected), max(most, self.expected)

    def _bound(self, farthest: int, side: int) -> int:
        """Returns the last number on the way to `farthest` at which so few, or many, may fall."""
        from scipy.stats import hypergeom

        def possible(falling: int) -> bool:
            # A frozen distribution takes longer to make than all that is asked of it.
            shape = (self.survivors, falling, self.tried)
            tail = (
                hypergeom.cdf(self.fell, *shape)
                if side > 0
                else hypergeom.sf(self.fell - 1, *shape)
            )
            return bool(tail - hypergeom.pmf(self.fell, *shape) / 2 > _TAIL)

        # Tails fall steadily on the way.
        inside, outside = round(self.expected), farthest + side
        while abs(outside - inside) > 1:
            middle = (inside + outside) // 2
            inside, outside = (middle, outside) if possible(middle) else (inside, middle)
        return inside


@dataclass(frozen=True)
class Estimate:
    """An accuracy in percent with its 95 % confidence interval."""

    accuracy: float
    low: float
    high: float

    def at_most(self, other: Estimate) -> Estimate:
        """Returns the smaller of both in each of the three numbers."""
        return Estimate(
            min(self.accuracy, other.accuracy), min(self.low, other.low), min(self.high, other.high)
        )


def estimate_accuracy(correct: NDArray[np.bool_], stage: SecondStage | None) -> Estimate:
    """Returns the accuracy that an attack would leave if its last stages saw all survivors.

    Of `n` images `R` survive the first stages, and `F = sum_h N_h f_h / n_h` of them would fall to
    the last. The accuracy is `p = (R - F) / n`. Its interval holds the choice of images, which is
    Wilson's `(w_low, w_high)` at `p` and `n`, and that of survivors, `(s_low, s_high)` of
    `estimate_of_these`. Both vary apart, so that their lengths add up in squares (MOVER: Newcombe
    1998, Statistics in Medicine 17; Zou and Donner 2008, Statistics in Medicine 27):

        low  = p - sqrt((p - w_low)^2  + (p - s_low)^2)
        high = p + sqrt((w_high - p)^2 + (s_high - p)^2)

    Where all survivors were tried this is Wilson's interval.

    Args:
        correct: `(n,)`, samples not tried count as right.
        stage: Whom the last stages saw; None: everybody.
    """
    these = estimate_of_these(correct, stage)
    share = these.accuracy / 100
    low, high = wilson(share, len(correct))
    low = share - math.hypot(share - low, share - these.low / 100)
    high = share + math.hypot(high - share, these.high / 100 - share)
    return Estimate(these.accuracy, 100 * max(0.0, low), 100 * min(1.0, high))


def estimate_of_these(correct: NDArray[np.bool_], stage: SecondStage | None) -> Estimate:
    """Returns the same accuracy, with an interval for the choice of survivors alone.

    It is about what the whole attack leaves of these images:

        s_low  = p - sqrt(sum_h (u_h - N_h f_h / n_h)^2) / n
        s_high = p + sqrt(sum_h (N_h f_h / n_h - l_h)^2) / n

    with the bounds `(l_h, u_h)` of each stratum (`Counts.bounds`).
    """
    strata = list(stage.counts(correct)) if stage is not None else []
    # What was tried and fell stands for more than itself.
    right = int(correct.sum()) - sum(each.expected - each.fell for each in strata)
    bounds = [each.bounds() for each in strata]
    fewer = math.hypot(*(most - s.expected for s, (_, most) in zip(strata, bounds, strict=True)))
    more = math.hypot(*(s.expected - least for s, (least, _) in zip(strata, bounds, strict=True)))
    scale = 100 / len(correct)
    return Estimate(scale * right, scale * (right - fewer), scale * (right + more))


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a proportion, both in [0, 1].

    Wilson's score interval (E. B. Wilson 1927): unlike the normal approximation it stays inside
    [0, 1] and is right near both ends, where robust accuracies often are.

    Args:
        share: Successes by trials; an estimate need not be of whole successes.
        trials: At least 1.
    """
    spread = _Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
