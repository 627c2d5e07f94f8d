"""How many samples of an epoch were classified correctly, for methods whose start depends on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynat_ray.collectives import rank, sum_over_workers


class EpochAccuracy:
    """Counts correct samples in an epoch; what was counted is known from the next epoch on.

    Attributes:
        last: Part of the samples of the epoch before, in [0, 1], that were correct; 0 at first.
    """

    def __init__(self) -> None:
        self.last = 0.0
        self._epoch = -1
        # Correct ones, and all.
        self._counts = torch.zeros(2)

    def to(self, device: torch.device) -> None:
        """Moves the counts to where the samples will be."""
        self._counts = self._counts.to(device)

    def start_epoch(self, epoch: int) -> None:
        """Takes over what was counted before `epoch`. All workers call it."""
        if epoch != self._epoch:
            correct, seen = sum_over_workers(self._counts).tolist()
            self.last = correct / seen if seen else self.last
            self._counts = torch.zeros_like(self._counts)
            self._epoch = epoch

    def add(self, correct: Tensor) -> None:
        """Counts samples, `(B,)`, without waiting for the device.

        Args:
            correct: Whether each was classified correctly.
        """
        counts = torch.stack([correct.sum(), torch.ones_like(correct).sum()])
        self._counts = self._counts + counts.to(self._counts)

    def state_dict(self) -> dict[str, Any]:
        """Returns all workers' counts; all of them call it."""
        return {
            "epoch": self._epoch,
            "last": self.last,
            "counts": sum_over_workers(self._counts).cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, whatever the number of workers is now."""
        self._epoch, self.last = state["epoch"], state["last"]
        counts = state["counts"].to(self._counts)
        self._counts = counts if rank() == 0 else torch.zeros_like(counts)
