"""How long a run is, and how much of it is behind a line of its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynat_ray.config import TrainConfig

# Of a sum of units and its quotient by the number of images, which are rounded.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RunLength:
    """How long a run is: `train.epochs`, or `train.compute`.

    Attributes:
        total: Epochs, or units of compute a training image.
        by_compute: Units, not epochs.
    """

    total: float
    by_compute: bool = False

    @classmethod
    def of(cls, train: TrainConfig) -> RunLength:
        """Returns the length that the settings ask for."""
        if train.compute is not None:
            return cls(train.compute, by_compute=True)
        assert train.epochs is not None
        return cls(train.epochs)

    @property
    def unit(self) -> str:
        """What it is counted in: `epochs` or `units`."""
        return "units" if self.by_compute else "epochs"

    def __str__(self) -> str:
        """Such as `20 epochs` or `440 units of compute`."""
        return f"{self.total:,.6g} {'units of compute' if self.by_compute else 'epochs'}"

    def spent(self, line: Mapping[str, Any]) -> float:
        """Returns the epochs, or units, that were done at a line of `metrics.jsonl`."""
        return float(line["forward_units"]) if self.by_compute else float(line["epoch"]) + 1

    def share(self, line: Mapping[str, Any]) -> float:
        """Returns the part of the run, in [0, 1], that was over at a line of `metrics.jsonl`."""
        return min(self.spent(line) / self.total, 1.0)

    def is_reached(self, spent: float) -> bool:
        """Returns whether a run that has done so many epochs, or units, is over."""
        return spent >= self.total * (1 - _ROUNDING)

    def fraction(self, line: Mapping[str, Any] | None) -> str:
        """Returns such as `3/20`; `line` is None before the first epoch has ended."""
        spent = 0.0 if line is None else self.spent(line)
        digits = 1 if self.by_compute and self.total < 100 else 0
        return f"{spent:.{digits}f}/{self.total:.6g}"
