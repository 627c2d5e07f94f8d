"""The images of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat_ray.attacks.corruptions import require_corruptible
from dynat_ray.attacks.registry import get_attacks, require_takeable
from dynat_ray.data import DatasetInfo, LazySplit, balanced_subset, load_info
from dynat_ray.data.stored import load_labels
from dynat_ray.errors import UserError
from dynat_ray.evaluation.checks import CHECK_SAMPLES
from dynat_ray.evaluation.fronted import require_stand_in_fits
from dynat_ray.evaluation.images import FIRST, read_images
from dynat_ray.evaluation.inputs import (
    count_classes,
    has_gradient,
    require_black_box,
)
from dynat_ray.evaluation.request import Request
from dynat_ray.evaluation.subject import Subject, image_size_for, require_fit
from dynat_ray.hardware import machine_memory_bytes


@dataclass(frozen=True)
class Samples:
    """Images, which are read when they are needed.

    Attributes:
        images: All.
        first: One of them, float32 `(1, C, H, W)` in [0, 1]: the others have its form.
        labels: int64 `(N,)`.
        indices: Their places in the split, `(N,)`.
        classes: Logits of the model.
        differentiable: They have a gradient with respect to the images.
    """

    data: DatasetInfo
    images: LazySplit
    first: Tensor
    labels: Tensor
    indices: NDArray[np.int64]
    classes: int
    differentiable: bool

    def some(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Returns some images, float32 `(n, C, H, W)` in [0, 1], and their labels `(n,)`."""
        return read_images(self.images, positions), self.labels[torch.from_numpy(positions)]


def load_samples(subject: Subject, request: Request) -> Samples:
    """Returns the samples, once it is sure that they, the model and the request fit.

    Raises:
        UserError: They do not, or the data set is not there.
    """
    data = load_info(request.data)
    labels = load_labels(request.data, request.split)
    indices = balanced_subset(labels.numpy(), request.samples)
    if request.among is not None:
        indices = indices[np.isin(indices, request.among)]
    if len(indices) == 0:
        raise UserError("there are 0 samples to evaluate; at least 1 is needed")
    labels = labels[torch.from_numpy(indices)]
    side = image_size_for(subject, data)
    _require_memory(min(len(indices), max(request.batch_size, 2 * CHECK_SAMPLES)), data, side)
    images = LazySplit(request.data, request.split, image_size=side, positions=indices)
    first = read_images(images, FIRST)
    require_fit(subject.model, data, first)
    attacks = get_attacks(request.attacks)
    require_takeable(attacks, first, request.norm)
    if request.corruptions:
        require_corruptible(first)
    classes = count_classes(subject.model, first, labels)
    require_stand_in_fits(subject.model, first)
    differentiable = has_gradient(subject.model, first)
    if not differentiable:
        require_black_box(attacks, request.distances)
    return Samples(data, images, first, labels, indices, classes, differentiable)


def _require_memory(count: int, data: DatasetInfo, side: int) -> None:
    """Raises `UserError` if a batch of the side that a run or model names can't be held."""
    needed, memory = 4 * count * data.channels * side**2, machine_memory_bytes()
    if needed > memory:
        raise UserError(
            f"{count} images at {side} x {side} pixels, as the model's run says, take "
            f"{needed / 2**30:.0f} GiB and this machine has {memory / 2**30:.0f}; give --samples"
        )
