"""Making a classifier from settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import nn

from dynat_ray.errors import UserError
from dynat_ray.models.backbone import create_backbone, create_pretrained, first_line, require_known
from dynat_ray.models.classifier import Classifier


def build_model(
    name: str,
    *,
    num_classes: int,
    channels: int,
    size: tuple[int, int] | None,
    mean: Sequence[float],
    std: Sequence[float],
    kwargs: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> Classifier:
    """Returns a classifier in training mode, on the CPU.

    Args:
        name: Any model of timm's registry, with or without a tag of its weights.
        num_classes: Number of classes.
        channels: Channels of an image, 1 or 3.
        size: Height and width in pixels; None: what the architecture is made for.
        mean: Mean of each channel in [0, 1] pixels. Weights that were trained before keep the
            normalisation they were trained with, so it is not used with them.
        std: Standard deviation of each channel, likewise.
        kwargs: Keyword arguments of the architecture.
        pretrained: Start from timm's published weights.

    Raises:
        UserError: Unknown name, arguments or image size that don't fit the architecture, weights
            that can't be had.
    """
    require_known(name)
    arguments = dict(kwargs or {})
    if size is not None and _depends_on_size(name):
        arguments.setdefault("img_size", size)
    backbone = create_backbone(name, num_classes, channels, arguments)
    if pretrained:
        backbone = create_pretrained(name, num_classes, channels, arguments)
        mean, std = _published_normalisation(backbone, channels)
    model = Classifier(
        backbone,
        name=name.partition(".")[0],
        arguments=arguments,
        num_classes=num_classes,
        size=size or tuple(_published(backbone)["input_size"][1:]),
        mean=mean,
        std=std,
    )
    _try_out(model)
    return model


def _depends_on_size(name: str) -> bool:
    published = timm.get_pretrained_cfg(name)
    return bool(published and published.fixed_input_size)


def _published(backbone: nn.Module) -> dict[str, Any]:
    settings: dict[str, Any] = backbone.pretrained_cfg  # type: ignore[assignment]
    return settings


def _published_normalisation(
    backbone: nn.Module, channels: int
) -> tuple[Sequence[float], Sequence[float]]:
    mean, std = _published(backbone)["mean"], _published(backbone)["std"]
    if len(mean) != channels:
        # timm sums the colour weights of the first layer: grey pixels take the mean of each.
        mean, std = ([sum(values) / len(values)] * channels for values in (mean, std))
    return mean, std


def _try_out(model: Classifier) -> None:
    """Raises `UserError` unless an image of the model's size comes out as logits."""
    height, width = model.size
    described = f"model '{model.name}' can't take {model.channels}x{height}x{width} images"
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, model.channels, height, width))
    except (
        AssertionError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f"{described} ({first_line(error)}); take another model, or prepare the data with "
            "another --size"
        ) from error
    finally:
        model.train()
    if logits.shape != (1, model.num_classes):
        raise UserError(
            f"model '{model.name}' returns {tuple(logits.shape)} instead of (1, "
            f"{model.num_classes}) logits; check model.kwargs {model.arguments}"
        )
