"""Training images that grow in the course of a run, because small ones cost less.

Early epochs learn what small images show as well (Karras et al., ICLR 2018, for generators; for
classifiers, Howard's DAWNBench entry of 2018). The budget of an attack stays what it is in pixel
values; validation and evaluation see images of their own size.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import interpolate

from dynat_ray.data import Batch
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.models import Classifier

# Sizes before the full one: each is a shape that kernels are chosen or compiled for.
_STAGES = 4


def shrunk(batch: Batch, data: DataConfig, progress: float) -> Batch:
    """Returns a batch with images of the size for this part of the run.

    Args:
        batch: Images `(B, C, H, W)` as augmented; soft labels and places in the set stay.
        data: For `first_image_size`, the side that the longer side begins with, and `size_growth`.
        progress: Part of the run that is over, in [0, 1].
    """
    full = max(batch.images.shape[2:])
    stage = int(_STAGES * progress / data.size_growth)
    if data.first_image_size == 0 or stage >= _STAGES:
        return batch
    longest = data.first_image_size + (full - data.first_image_size) * stage / _STAGES
    size = [max(1, round(side * longest / full)) for side in batch.images.shape[2:]]
    images = interpolate(batch.images, size, mode="bilinear", antialias=True).clamp_(0, 1)
    return replace(batch, images=images)


def check_first_size(data: DataConfig, model: Classifier) -> None:
    """Raises `UserError` where a model can't begin with `data.first_image_size`."""
    first, full = data.first_image_size, max(model.size)
    if not 0 < first < full:
        raise UserError(
            f"data.first_image_size is {first}; images here have {full} pixels a side, and they "
            "can only grow"
        )
    size = [max(1, round(side * first / full)) for side in model.size]
    try:
        with torch.no_grad():
            model.eval()(model.mean.expand(1, -1, *size))
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model '{model.name}' does not take images of {first} pixels a side ({reason}); set "
            "data.first_image_size to 0"
        ) from None
