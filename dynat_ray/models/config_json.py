"""`config.json` of a model folder, in timm's format: written, and read as a stranger's."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynat_ray.bounded_file import read_bounded
from dynat_ray.errors import UserError
from dynat_ray.models.classifier import Classifier

CONFIG_FILE = "config.json"
_LARGEST_FILE = 2**20
# With an indent each, they fit into the largest file.
_LONGEST_NAMES = 2**19
_MOST_CLASSES = 2**24
_MOST_CHANNELS = 2**10
_LARGEST_SIDE = 2**14


@dataclass(frozen=True)
class ModelDescription:
    """What `config.json` says of a model.

    Attributes:
        architecture: Name that timm's registry may have.
        arguments: Keyword arguments of the architecture, as they were found.
        num_classes: Number of classes.
        channels: Channels of an image.
        size: Height and width in pixels.
        mean: Mean of each channel, in [0, 1] pixels.
        std: Standard deviation of each channel, more than 0.
        label_names: Names of the classes; empty: not known.
    """

    architecture: str
    arguments: object
    num_classes: int
    channels: int
    size: tuple[int, int]
    mean: list[float]
    std: list[float]
    label_names: tuple[str, ...] = ()


def describe(model: Classifier) -> str:
    """Returns the text of a model's `config.json`."""
    published: dict[str, Any] = model.backbone.pretrained_cfg  # type: ignore[assignment]
    kept = ("fixed_input_size", "first_conv", "classifier", "pool_size", "interpolation")
    described = {
        "architecture": model.name,
        "num_classes": model.num_classes,
        "model_args": model.arguments,
        "pretrained_cfg": {key: published[key] for key in kept if key in published}
        | {
            "num_classes": model.num_classes,
            "input_size": [model.channels, *model.size],
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "crop_pct": 1.0,
        },
    }
    names = json.dumps(model.label_names)
    if model.label_names and len(names) < _LONGEST_NAMES:
        described["label_names"] = list(model.label_names)
    return json.dumps(described, indent=2) + "\n"


def read_description(file: Path) -> ModelDescription:
    """Reads a `config.json`; only what `ModelDescription` holds is taken from it.

    Raises:
        UserError: It can't be read, or describes no model.
    """
    described = _read_json(file)
    try:
        published = described["pretrained_cfg"]
        channels, height, width = (
            _whole(value, limit)
            for value, limit in zip(
                published["input_size"],
                (_MOST_CHANNELS, _LARGEST_SIDE, _LARGEST_SIDE),
                strict=True,
            )
        )
        return ModelDescription(
            architecture=_text(described["architecture"]),
            arguments=described.get("model_args", {}),
            num_classes=_whole(described["num_classes"], _MOST_CLASSES),
            channels=channels,
            size=(height, width),
            mean=_as_many(published["mean"], channels, least=-math.inf),
            std=_as_many(published["std"], channels, least=0.0),
            label_names=_names(described.get("label_names")),
        )
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{file} describes no model: {type(error).__name__}: {reason}") from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(read_bounded(file, _LARGEST_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} can't be read: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"architecture is of type {type(value).__name__}")
    return value


def _whole(value: object, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"a number is not whole, or not in 1 to {most}")
    return value


def _names(value: object) -> tuple[str, ...]:
    """Returns names of classes; timm's folders may have others than a list of them, or none."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    return ()


def _as_many(values: Any, channels: int, *, least: float) -> list[float]:
    """Returns finite numbers above `least`, one a channel; others count by their mean."""
    if not isinstance(values, list) or not 1 <= len(values) <= _MOST_CHANNELS:
        raise TypeError("mean and std must be lists")
    numbers = [float(value) for value in values]
    if not all(math.isfinite(number) and number > least for number in numbers):
        raise ValueError("mean and std must be finite, and std more than 0")
    return numbers if len(numbers) == channels else [sum(numbers) / len(numbers)] * channels
