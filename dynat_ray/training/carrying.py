"""Perturbations that are carried from one epoch to the next.

An attack that starts where the one on the same image ended an epoch ago needs fewer steps (Zheng,
Zhang, Gu, Lee and Prakash, "Efficient adversarial training with transferable adversarial examples",
CVPR 2020). Shifts and mirrorings differ between epochs, so perturbations are kept in the frame of
the image as it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dynat_ray.collectives import max_over_workers, rank, sum_over_workers, world_size
from dynat_ray.config import RunConfig
from dynat_ray.data import Augmentation, Batch, DatasetInfo
from dynat_ray.errors import UserError
from dynat_ray.training.step import StepPart

# Changes are kept as whole numbers up to this, which stands for `_LARGEST_RATIO * eps`.
_LEVELS = 127
_LARGEST_RATIO = 2.0
_LARGEST_MEMORY = 8 * 2**30
# Workers exchange what they have written in parts of so many images.
_ROWS = 4096


class CarriedPerturbations:
    """The last perturbation of every training image.

    A run does not depend on its number of workers, nor on whether it was resumed: an image is seen
    once in an epoch, and all workers know of all perturbations when the next one begins.

    Args:
        config: For `attack.carry_epochs` and `threat.eps`.
        info: Number and size of the images.
        augmentation: Where it puts the images.
        device: Where batches are.
    """

    def __init__(
        self,
        config: RunConfig,
        info: DatasetInfo,
        augmentation: Augmentation,
        device: torch.device,
    ) -> None:
        self._augmentation = augmentation
        # Under L1 eps may be more than a pixel can change.
        self._unit = max(min(_LARGEST_RATIO * config.threat.eps, 1.0) / _LEVELS, 1e-12)
        self._epochs = config.attack.carry_epochs
        self._epoch = -1
        self._levels = torch.zeros(_shape(config, info), dtype=torch.int8, device=device)
        # By this worker, since workers last exchanged what they know.
        self._written = torch.zeros(len(self._levels), dtype=torch.bool, device=device)
        self._with_extra = config.data.extra_fraction > 0

    def start_epoch(self, epoch: int) -> None:
        """Takes over what was written before `epoch`; all workers call it before its first step."""
        if epoch != self._epoch:
            self._exchange()
            if epoch % self._epochs == 0:
                self._levels.zero_()
        self._epoch = epoch

    def added_to(self, batch: Batch) -> Batch:
        """Returns an augmented batch together with the perturbations of its images."""
        known = batch.indices < len(self._levels)
        levels = self._levels[torch.where(known, batch.indices, 0)]
        levels = self._augmentation.placement(batch.indices, self._epoch).apply(levels)
        change = levels.permute(0, 3, 1, 2).to(batch.images) * self._unit
        carried = torch.where(known[:, None, None, None], change, torch.zeros_like(change))
        return replace(batch, carried=carried)

    def write(self, parts: Sequence[StepPart]) -> None:
        """Remembers where the attacks of a step ended, those that ended anywhere.

        Args:
            parts: From `StepOutcome`.
        """
        for part in parts:
            batch, adversarial = part.prepared.batch, part.prepared.adversarial
            if adversarial is None:
                continue
            indices, change = batch.indices, adversarial - batch.images
            if self._with_extra:
                # They have larger indices and are not remembered. (It waits for the device.)
                rows = (indices < len(self._levels)).nonzero().squeeze(1)
                indices, change = indices[rows], change[rows]
            change = change.permute(0, 2, 3, 1)
            finite = change.flatten(1).isfinite().all(dim=1)
            levels = (change / self._unit).round().clamp(-_LEVELS, _LEVELS).nan_to_num(0.0)
            placement = self._augmentation.placement(indices, self._epoch)
            before = self._levels[indices]
            ended = placement.undo(levels.to(torch.int8), before)
            self._levels[indices] = torch.where(finite[:, None, None, None], ended, before)
            self._written[indices] = True

    def state_dict(self) -> dict[str, Any]:
        """Returns all workers' perturbations; all of them call it."""
        self._exchange()
        return {"epoch": self._epoch, "levels": self._levels.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned, whatever the number of workers is now."""
        if state["levels"].shape != self._levels.shape:
            raise ValueError("the perturbations that are carried along are of other images")
        self._epoch = state["epoch"]
        self._levels.copy_(state["levels"])

    def _exchange(self) -> None:
        """Tells all workers what each of them has written."""
        if world_size() > 1:
            for levels, written in zip(
                self._levels.split(_ROWS), self._written.split(_ROWS), strict=True
            ):
                # Of several workers that have written an image (one that fills up the last batch)
                # the last one counts: the others add nothing.
                number = rank() + 1
                writer = max_over_workers(torch.where(written, number, 0))[:, None, None, None]
                own = torch.where(writer == number, levels, 0)
                levels.copy_(torch.where(writer > 0, sum_over_workers(own), levels))
        self._written.zero_()


def check_carrying(config: RunConfig, info: DatasetInfo, augmentation: Augmentation) -> None:
    """Raises `UserError` where perturbations can't be carried from epoch to epoch."""
    setting = "attack.carry_epochs"
    if augmentation.unplaced:
        raise UserError(
            f"{setting} can follow the augmentations crop, flip and cutout, not "
            f"'{augmentation.unplaced}' of data.augment; set it to 0, or leave that out"
        )
    if config.data.first_image_size:
        raise UserError(
            f"{setting} needs images whose size does not change; set data.first_image_size or "
            f"{setting} to 0"
        )
    if config.data.balance:
        raise UserError(
            f"{setting} needs images that come once in an epoch; data.balance draws some of them "
            "again: set one of the two to 0 or false"
        )
    if info.size_at(config.data.image_size) is None:
        raise UserError(f"{setting} needs images of one size; set data.image_size")
    size = math.prod(_shape(config, info))
    if size > _LARGEST_MEMORY:
        raise UserError(
            f"{setting} would keep {size / 2**30:.0f} GiB of perturbations on every worker (at "
            f"most {_LARGEST_MEMORY // 2**30}); set it to 0"
        )


def _shape(config: RunConfig, info: DatasetInfo) -> tuple[int, int, int, int]:
    """Returns `(N, H, W, C)`: images are moved about with their channels last."""
    size = info.size_at(config.data.image_size)
    assert size is not None
    return info.counts["train"], *size, info.channels
