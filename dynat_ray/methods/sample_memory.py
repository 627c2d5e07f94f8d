"""What a method remembers of each training sample from one epoch to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynat_ray.collectives import rank, sum_over_workers


class SampleMemory:
    """One number a training sample; what is written in an epoch is read from the next one on.

    So it makes no difference which worker sees a sample first, how many workers there are, or
    whether the run was resumed in between. A sample that is written twice in an epoch (by balanced
    drawing) remembers the mean.

    Args:
        samples: Size of the training set. Extra images, whose indices are larger, have no memory:
            they always read `initial`.
        initial: What a sample reads before it was ever written.
    """

    def __init__(self, samples: int, initial: float) -> None:
        self._initial = initial
        self._epoch = -1
        # The remembered numbers; the sums and counts of those written in this epoch.
        self._values = torch.full((samples,), initial)
        self._written = torch.zeros(2, samples)

    def to(self, device: torch.device) -> None:
        """Moves the memory to where the indices will be."""
        self._values, self._written = self._values.to(device), self._written.to(device)

    def start_epoch(self, epoch: int) -> None:
        """Takes over what was written before `epoch`. All workers call it."""
        if epoch != self._epoch:
            sums, counts = sum_over_workers(self._written).unbind()
            self._values = torch.where(counts > 0, sums / counts.clamp(min=1), self._values)
            self._written = torch.zeros_like(self._written)
            self._epoch = epoch

    def read(self, indices: Tensor) -> Tensor:
        """Returns the numbers `(B,)` of the samples `indices` `(B,)`."""
        known = indices < len(self._values)
        values = self._values[torch.where(known, indices, 0)]
        return torch.where(known, values, torch.full_like(values, self._initial))

    def write(self, indices: Tensor, values: Tensor) -> None:
        """Remembers `values` `(B,)` for the samples `indices` `(B,)`, those that are finite."""
        values = values.detach()
        known = (indices < len(self._values)) & values.isfinite()
        places = indices.clamp(max=len(self._values) - 1)
        kept = torch.where(known, values, 0.0)
        self._written.index_add_(1, places, torch.stack([kept, known.to(kept)]))

    def state_dict(self) -> dict[str, Any]:
        """Returns all workers' memory; all of them call it."""
        return {
            "epoch": self._epoch,
            "values": self._values.cpu(),
            "written": sum_over_workers(self._written).cpu(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, whatever the number of workers is now."""
        if len(state["values"]) != len(self._values):
            raise ValueError(f"{len(state['values'])} remembered samples, not {len(self._values)}")
        if state["written"].shape != self._written.shape or state["values"].dim() != 1:
            raise ValueError("the remembered samples have another shape")
        device = self._values.device
        self._epoch, self._values = state["epoch"], state["values"].to(device)
        written = state["written"].to(device)
        self._written = written if rank() == 0 else torch.zeros_like(written)
