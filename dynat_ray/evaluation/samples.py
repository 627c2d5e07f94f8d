"""The images of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynat_ray.attacks.corruptions import require_corruptible
from dynat_ray.attacks.registry import get_attacks, require_takeable
from dynat_ray.data import DatasetInfo, balanced_subset, load_info, load_split
from dynat_ray.data.stored import load_labels
from dynat_ray.errors import UserError
from dynat_ray.evaluation.fronted import require_stand_in_fits
from dynat_ray.evaluation.inputs import (
    check_samples,
    count_classes,
    has_gradient,
    require_black_box,
)
from dynat_ray.evaluation.request import Request
from dynat_ray.evaluation.subject import Subject, image_size_for, require_fit
from dynat_ray.hardware import machine_memory_bytes


@dataclass(frozen=True)
class Samples:
    """Images `(N, C, H, W)`, float32 in [0, 1], their labels and places in the split, `(N,)`.

    Attributes:
        classes: Logits of the model.
        differentiable: They have a gradient with respect to the images.
    """

    data: DatasetInfo
    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]
    classes: int
    differentiable: bool


def load_samples(subject: Subject, request: Request) -> Samples:
    """Returns the samples, once it is sure that they, the model and the request fit.

    Raises:
        UserError: They do not, or the data set is not there.
    """
    data = load_info(request.data)
    indices = balanced_subset(load_labels(request.data, request.split).numpy(), request.samples)
    side = image_size_for(subject, data)
    _require_memory(len(indices), data, side)
    stored, labels = load_split(request.data, request.split, limit=request.samples, image_size=side)
    images = stored.to(torch.float32).div_(255)
    if request.among is not None:
        kept = np.isin(indices, request.among)
        images, labels, indices = images[kept], labels[kept], indices[kept]
    check_samples(images, labels)
    require_fit(subject.model, data, images)
    attacks = get_attacks(request.attacks)
    require_takeable(attacks, images, request.norm)
    if request.corruptions:
        require_corruptible(images)
    classes = count_classes(subject.model, images, labels)
    require_stand_in_fits(subject.model, images)
    differentiable = has_gradient(subject.model, images)
    if not differentiable:
        require_black_box(attacks, request.distances)
    return Samples(data, images, labels, indices, classes, differentiable)


def _require_memory(count: int, data: DatasetInfo, side: int) -> None:
    """Raises `UserError` if images of the side that a run or model names can't be held."""
    needed, memory = 4 * count * data.channels * side**2, machine_memory_bytes()
    if needed > memory:
        raise UserError(
            f"{count} images at {side} x {side} pixels, as the model's run says, take "
            f"{needed / 2**30:.0f} GiB and this machine has {memory / 2**30:.0f}; give --samples"
        )
