"""Measurements beside attacks, which are made on every sample and know no eps.

They run in shards like attacks, so that they too are spread over workers and resumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.attacks.stages import Setting


@dataclass(frozen=True)
class Measured:
    """What came out for the samples of a shard.

    Attributes:
        predicted: Class for the changed image, int64 `(n,)`.
        distances: Length of the change, `(n,)`; None where that is not what is measured.
    """

    predicted: Tensor
    distances: Tensor | None = None


class Probe(ABC):
    """One measurement.

    Attributes:
        stages: Always empty; what attacks and probes share asks for them.
    """

    stages: ClassVar[tuple[()]] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in results."""

    @property
    @abstractmethod
    def costly(self) -> bool:
        """Whether a run may give it fewer samples."""

    @abstractmethod
    def measure(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        at: Setting,
        positions: NDArray[np.int64],
    ) -> Measured:
        """Changes images and looks what the model makes of them.

        Args:
            model: In eval mode, with frozen parameters, in float32.
            images: float32 `(n, C, H, W)` in [0, 1] on the model's device.
            labels: int64 `(n,)`.
            at: Norm, classes and seed; the radius does not count.
            positions: Places of the images in the evaluation, `(n,)`; with the seed they key
                random numbers, so that shards do not matter.
        """

    def note(self, classes: int) -> str:
        """As a stage's: there is nothing to say."""
        return ""
