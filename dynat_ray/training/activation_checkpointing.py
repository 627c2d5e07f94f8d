"""Activations computed again on the way back instead of kept (Chen et al. 2016), by timm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

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


@contextmanager
def unchanged_statistics(model: nn.Module) -> Iterator[None]:
    """Keeps running statistics as they are, for a backward pass that computes forward again.

    Else batch normalisation would count every batch twice.
    """
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    before = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
