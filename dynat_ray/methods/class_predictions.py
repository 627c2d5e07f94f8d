"""What a network predicts for the samples of each class, on average over an epoch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynat_ray.collectives import rank, sum_over_workers


class ClassPredictions:
    """Mean predictions by class; what is added in an epoch counts from the next one on.

    Args:
        classes: K, their number.

    Attributes:
        means: `(K, K)`, rows sum to 1: the mean prediction for each class; at first uniform.
    """

    def __init__(self, classes: int) -> None:
        self.means = torch.full((classes, classes), 1 / classes)
        self._epoch = -1
        self._sums = torch.zeros(classes, classes)

    def to(self, device: torch.device) -> None:
        """Moves all to where the samples will be."""
        self.means, self._sums = self.means.to(device), self._sums.to(device)

    def start_epoch(self, epoch: int) -> None:
        """Takes over what was added before `epoch`. All workers call it."""
        if epoch != self._epoch:
            sums = sum_over_workers(self._sums)
            totals = sums.sum(dim=1, keepdim=True)
            # A class of which no sample was seen stays as it was.
            self.means = torch.where(totals > 0, sums / totals.clamp(min=1e-12), self.means)
            self._sums = torch.zeros_like(self._sums)
            self._epoch = epoch

    def add(self, probs: Tensor, labels: Tensor) -> None:
        """Adds predictions `(B, K)` for samples of the classes `labels` `(B,)`."""
        finite = probs.isfinite().all(dim=1, keepdim=True)
        shares = torch.where(finite, probs, 0.0).to(self._sums)
        self._sums = self._sums + F.one_hot(labels, len(self._sums)).to(shares).T @ shares

    def state_dict(self) -> dict[str, Any]:
        """Returns what all workers have added; all of them call it."""
        return {
            "epoch": self._epoch,
            "means": self.means.cpu(),
            "sums": sum_over_workers(self._sums).cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, whatever the number of workers is now."""
        if state["means"].shape != self.means.shape or state["sums"].shape != self._sums.shape:
            raise ValueError("the predictions by class are of another number of classes")
        device = self.means.device
        self._epoch, self.means = state["epoch"], state["means"].to(device)
        sums = state["sums"].to(device)
        self._sums = sums if rank() == 0 else torch.zeros_like(sums)
