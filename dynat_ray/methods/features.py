"""What lies between a classifier's trunk and its head, for the methods that work there."""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray.acceleration.modes import frozen
from dynat_ray.errors import UserError
from dynat_ray.models import Classifier


def channel_axis(network: Classifier) -> int:
    """Returns which axis of the trunk's features `(B, ...)` holds the channels.

    1 for vectors `(B, D)` and maps `(B, C, H, W)`, the last for tokens `(B, N, D)` and maps that
    end in their channels.

    Raises:
        UserError: No axis is as long as the model says that its features are.
    """
    shape = feature_shape(network)
    channels = network.backbone.num_features
    for axis in (1, len(shape)):
        if shape[axis - 1] == channels:
            return axis
    raise UserError(
        f"the features of model '{network.name}' have shape {shape}, in which its {channels} "
        "channels can't be told; take another model for this method"
    )


def feature_shape(network: Classifier) -> tuple[int, ...]:
    """Returns the shape of one image's features, without the batch axis."""
    with frozen(network), torch.no_grad():
        image = torch.zeros(1, network.channels, *network.size, device=network.mean.device)
        return tuple(network.features(image).shape[1:])


def per_channel(values: Tensor, axis: int, dimensions: int) -> Tensor:
    """Returns `values` `(B, C)` so that they broadcast over features with channels at `axis`."""
    shape = [1] * dimensions
    shape[0], shape[axis] = values.shape
    return values.view(shape)


def by_channel(features: Tensor, axis: int) -> Tensor:
    """Returns features `(B, ...)` with channels at `axis` as `(B, C, P)`, P values a channel."""
    moved = features.movedim(axis, 1)
    return moved.reshape(*moved.shape[:2], -1)
