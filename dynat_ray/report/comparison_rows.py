"""What a comparison of methods says of each of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A value over the seeds.

    Attributes:
        mean: Of the seeds.
        deviation: Standard deviation of the sample; None for a single seed.
    """

    mean: float
    deviation: float | None

    def text(self, digits: int = 1) -> str:
        """Returns such as `49.3 ± 0.4`."""
        words = f"{self.mean:.{digits}f}"
        return words if self.deviation is None else f"{words} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """A method's best or last models.

    Attributes:
        label: The method.
        model: `best` or `last`.
        seeds: How many runs have ended.
        accuracies: In percent, by attack.
        epochs: Epochs that were trained, with fraction.
        units: Units of compute that were spent, a training image.
        seconds: Of training.
        seconds_per_epoch: Of an epoch.
        passes: Forward-backward passes of the training attack, a sample and epoch.
    """

    label: str
    model: str
    seeds: int
    accuracies: dict[str, Spread]
    epochs: Spread
    units: Spread
    seconds: Spread
    seconds_per_epoch: Spread
    passes: Spread
