"""Making a classifier from settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dynat_ray.errors import UserError
from dynat_ray.models.backbone import create_backbone, create_pretrained, first_line, require_known
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.pixel_reach import reached_size, unreached_pixels


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
    given = dict(kwargs or {})
    arguments = _with_size(name, given, size)
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
    missed = _unreached(model)
    if missed.any():
        raise _blind(model, missed, None if "img_size" in given else given)
    return model


def _with_size(
    name: str, arguments: Mapping[str, Any], size: tuple[int, int] | None
) -> dict[str, Any]:
    """Returns an architecture's arguments with the size of the images, if it is made for one."""
    if size is None or not _depends_on_size(name):
        return dict(arguments)
    return {"img_size": size, **arguments}


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
    except MemoryError:
        raise
    except Exception as error:  # Architectures fail each in its own way.
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


def _unreached(model: Classifier) -> Tensor:
    """Returns which pixels of its images a classifier never sees, bool `(H, W)`."""
    model.eval()
    try:
        return unreached_pixels(model, model.channels, model.size)
    except RuntimeError as error:
        raise UserError(
            f"model '{model.name}' has no gradient with respect to its images "
            f"({first_line(error)}); take another model"
        ) from error
    finally:
        model.train()


def _blind(model: Classifier, missed: Tensor, arguments: Mapping[str, Any] | None) -> UserError:
    """Returns what to say of a network that passes pixels over; `arguments` make another size."""
    height, width = model.size
    sizes = [] if arguments is None else _sizes_that_fit(model, missed, arguments)
    advice = "prepare the data with another --size, or take another model"
    if sizes:
        sides = " or ".join(map(str, sizes))
        advice = f"set data.image_size to {sides}, or prepare the data with such a --size"
    share = 100 * float(missed.float().mean())
    return UserError(
        f"model '{model.name}' never looks at {share:.0f} % of the pixels of {height}x{width} "
        f"images, which its patches or strides do not divide; {advice}"
    )


def _sizes_that_fit(model: Classifier, missed: Tensor, arguments: Mapping[str, Any]) -> list[int]:
    """Returns the nearest sides, a smaller and a larger one, of which all pixels are seen.

    What is seen of an image ends where the last patch does; the next ends a patch further.
    """
    seen = min(reached_size(missed))
    stride = _first_stride(model.backbone) or 1
    side = min(model.size)
    smaller = [seen, *(side - side % each for each in (stride, 2 * stride))]
    larger = [seen + stride, *(-(-side // each) * each for each in (2 * stride, 4 * stride))]
    found = []
    for candidates in (smaller, larger):
        tried = dict.fromkeys(each for each in candidates if each > 0 and each != side)
        found += [each for each in tried if _sees_all(model, each, arguments)][:1]
    return sorted(found)


def _first_stride(backbone: nn.Module) -> int:
    """Returns the stride of the first convolution; 0 if there is none."""
    first = next((each for each in backbone.modules() if isinstance(each, nn.Conv2d)), None)
    return 0 if first is None else int(first.stride[0])


def _sees_all(model: Classifier, side: int, arguments: Mapping[str, Any]) -> bool:
    """Returns whether such a classifier for squares of this side sees all of them."""
    try:
        with torch.random.fork_rng(devices=[]):
            fitting = _with_size(model.name, arguments, (side, side))
            other = create_backbone(model.name, model.num_classes, model.channels, fitting)
        return not unreached_pixels(other.eval(), model.channels, (side, side)).any()
    except Exception:  # It can't be made, or can't take them.
        return False
