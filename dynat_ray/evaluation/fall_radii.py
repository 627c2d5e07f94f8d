"""At which radius of a curve each image falls, and how sure the model was of it before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.shard_outcome import WRONG_WHEN_CLEAN

_FEWEST = 10
_RESAMPLES = 400


@dataclass(frozen=True)
class FallRadii:
    """Images that an attack saw at every radius, all `(n,)`.

    Attributes:
        attack: Which.
        positions: Places in the evaluated images.
        index: Places in the split.
        label: True classes.
        predicted: Classes without attack.
        margin: `p_y - max_{k != y} p_k` without attack, in [-1, 1].
        radius: Smallest evaluated eps at which the image is not right; 0: wrong without attack;
            infinite: right at all.
    """

    attack: str
    positions: NDArray[np.int64]
    index: NDArray[np.int64]
    label: NDArray[np.int64]
    predicted: NDArray[np.int64]
    margin: NDArray[np.float64]
    radius: NDArray[np.float64]

    @property
    def right_unattacked(self) -> NDArray[np.bool_]:
        """Which are right without attack."""
        return self.radius > 0

    def table(self) -> pa.Table:
        """Returns a row for each image; `radius` is null where it is right at all."""
        return pa.table(
            {
                "index": self.index,
                "label": self.label,
                "predicted": self.predicted,
                "margin": self.margin,
                "radius": pa.array(self.radius, mask=np.isinf(self.radius)),
            }
        )


def fall_radii(
    outcomes: AttackOutcomes,
    margins: Outcome,
    attack: str,
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> FallRadii:
    """Returns where on a curve the images fall that an attack saw.

    Args:
        outcomes: Of all radii.
        margins: What the probe `margin` found.
        attack: Its name.
        indices: Places of all evaluated images in the split, `(N,)`.
        labels: Their classes, `(N,)`.
    """
    found = sorted(outcomes.items(), key=lambda item: -item[0].eps)
    seen = found[0][1][attack].positions
    radius = np.full(len(seen), np.inf)
    for threat, at in found:
        radius[~at[attack].correct] = threat.eps
        radius[at[attack].fooled_by == WRONG_WHEN_CLEAN] = 0.0
    assert margins.distances is not None
    places = np.searchsorted(margins.positions, seen)
    return FallRadii(
        attack,
        seen,
        indices[seen],
        labels[seen],
        margins.predicted[places],
        margins.distances[places],
        radius,
    )


def rank_correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0
) -> Mapping[str, Any] | None:
    """Returns Spearman's rank correlation of two values of the same images.

    Args:
        one: `(n,)`, infinite values allowed.
        other: `(n,)`, likewise.
        seed: Of the resampling.

    Returns:
        `value`, `interval` (95 %, percentile bootstrap over images) and `images`; None where there
        are fewer than ten images, or values do not differ.
    """
    if len(one) < _FEWEST or len(np.unique(one)) == 1 or len(np.unique(other)) == 1:
        return None
    random = np.random.default_rng(seed)
    drawn = random.integers(len(one), size=(_RESAMPLES, len(one)))
    with np.errstate(invalid="ignore"):  # A sample of equal values has no correlation.
        resampled = [_spearman(one[rows], other[rows]) for rows in drawn]
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return {
        "value": round(_spearman(one, other), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "images": len(one),
    }


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
