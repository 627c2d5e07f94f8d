"""How far a run is: what learning rates, image sizes and methods follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynat_ray.storage.run_length import RunLength


@dataclass(frozen=True)
class HowFar:
    """How far a run is.

    Attributes:
        share: Part of it that is over, in [0, 1].
        epochs: Epochs done, with fraction.
        all_epochs: Epochs of the whole run; where compute ends it, as many as there will be if
            they cost what those before did (without end at the beginning).
    """

    share: float
    epochs: float
    all_epochs: float

    @classmethod
    def at(cls, length: RunLength, epochs: float, units: float) -> HowFar:
        """Returns how far a run of that length is.

        Args:
            length: Of the run.
            epochs: Epochs done, with fraction.
            units: Units of compute spent, a training image.
        """
        if not length.by_compute:
            return cls(min(epochs / length.total, 1.0), epochs, length.total)
        share = 1.0 if length.is_reached(units) else units / length.total
        return cls(share, epochs, epochs / share if share > 0 else math.inf)

    @property
    def over(self) -> bool:
        """Whether it is over."""
        return self.share >= 1
