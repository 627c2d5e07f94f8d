"""What one attack did to the samples of one shard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# In `ShardOutcome.fooled_by`.
STILL_RIGHT, WRONG_WHEN_CLEAN = -1, -2
# In `ShardOutcome.predicted`: the logits were not finite.
NO_PREDICTION = -1


@dataclass(frozen=True)
class ShardOutcome:
    """What one attack did to the samples of one shard.

    Attributes:
        predicted: Class after the attack, `(n,)`: the label exactly where the sample is still
            right, `NO_PREDICTION` where the logits are not finite.
        fooled_by: Stage that fooled the sample at this radius or a smaller one, `(n,)`: its place
            in the attack's stages, `STILL_RIGHT`, or `WRONG_WHEN_CLEAN`.
        distances: What a probe of distances measured, float64 `(n,)`, may be infinite.
        margins: Of the first part of a sampled attack: the margin of the logits for the image that
            its last stage made of a sample, float64 `(n,)`, 0 or less where it is wrong.
    """

    predicted: NDArray[np.int64]
    fooled_by: NDArray[np.int64]
    distances: NDArray[np.float64] | None = None
    margins: NDArray[np.float64] | None = None
