"""Attacks whose last stages see a sample of what the first ones left right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
