"""Follows a run from its first step to the one that ends it."""

from __future__ import annotations

import torch

from dynat_ray.collectives import sum_over_workers, world_size
from dynat_ray.data import Loader
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.equal_compute import less_than_a_step
from dynat_ray.training.how_far import HowFar
from dynat_ray.training.state import Progress


class Course:
    """Follows a run; all workers call all methods alike and learn the same.

    Args:
        length: Of the run.
        progress: Where it is; `units` and `units_before` are kept here.
        loader: Of the training images.
        device: Where workers exchange tensors.
    """

    def __init__(
        self, length: RunLength, progress: Progress, loader: Loader, device: torch.device
    ) -> None:
        self._length, self._progress = length, progress
        self._loader, self._device = loader, device
        # By this worker, since workers last told each other.
        self._own_units = 0

    @property
    def now(self) -> HowFar:
        """How far the run is."""
        return HowFar.at(self._length, self.epochs, self.units)

    @property
    def epochs(self) -> float:
        """Epochs done, with fraction."""
        return self._progress.epoch + self._progress.step / self._loader.steps

    @property
    def units(self) -> float:
        """Units of compute that all workers have spent, a training image."""
        return self._progress.units / self._loader.samples

    def begin_epoch(self) -> HowFar:
        """Returns how far the run was before the epoch, which may go on in its middle."""
        progress = self._progress
        if progress.step == 0:
            progress.units_before = progress.units
        return HowFar.at(self._length, progress.epoch, progress.units_before / self._loader.samples)

    def spend(self, units: int) -> None:
        """Takes in what this worker's part of a step took.

        Raises:
            SharedUserError: The first step took more than the whole run may.
        """
        self._own_units += units
        if not self._length.by_compute:
            return
        # Whether the run is over all workers must know alike.
        self.exchange()
        if self._progress.global_step == 1 and self.units > self._length.total:
            raise SharedUserError(less_than_a_step(self._length.total, self.units))

    def exchange(self) -> None:
        """Tells all workers what each of them has spent."""
        units, self._own_units = self._own_units, 0
        if world_size() > 1:
            units = int(sum_over_workers(torch.tensor(units, device=self._device)))
        self._progress.units += units
