"""Activations computed again on the way back instead of kept (Chen et al. 2016), by timm."""

from __future__ import annotations

from dynat_ray.errors import UserError
from dynat_ray.models import Classifier


def checkpoint_activations(model: Classifier) -> None:
    """Makes a classifier keep the activations at the borders of its blocks only.

    Raises:
        UserError: The architecture can't.
    """
    try:
        model.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise UserError(
            f"{model.name} has no activation checkpointing; leave out "
            "train.activation_checkpointing, or set train.micro_batch_size to save memory"
        ) from None
