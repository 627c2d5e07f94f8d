"""Weights of others put into a network of ours, with errors that name what doesn't fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor

from dynat_ray.errors import UserError
from dynat_ray.models.arguments import shortened
from dynat_ray.models.backbone import require_known
from dynat_ray.models.classifier import Classifier
from dynat_ray.models.importing.layouts import Layout, layout_of, nearest_layout
from dynat_ray.models.importing.unwrapping import Checkpoint
from dynat_ray.shown_text import shown_text

_SHOWN = 3
# Counters of batch normalisation, which old files lack and nothing here reads.
_OPTIONAL = ".num_batches_tracked"


def describe_network(
    checkpoint: Checkpoint, architecture: str, arguments: Mapping[str, Any], given_as: str
) -> dict[str, Any]:
    """Returns what `build_model` has to be told for a network that the weights fit.

    Args:
        checkpoint: The weights.
        architecture: Name in timm's registry.
        arguments: Its keyword arguments, as far as they are known; they win over what the weights
            tell.
        given_as: Where the weights are from, for errors.

    Returns:
        `num_classes`, `channels`, `mean`, `std`, `size` (None: what the architecture is made for)
        and `kwargs`.

    Raises:
        UserError: Unknown architecture, or weights without a classifier of its kind.
    """
    require_known(architecture)
    layout = _layout(checkpoint, given_as)
    found = {
        own: tensor
        for name, tensor in checkpoint.weights.items()
        if (own := layout.own_name(name)) is not None
    }
    published: Any = timm.get_pretrained_cfg(architecture)
    head = next((found[key] for key in _keys(published.classifier) if key in found), None)
    if head is None:
        raise UserError(
            f"{given_as} has no classifier of '{architecture}' ({published.classifier}): "
            f"{_doubt(checkpoint)}"
        )
    first = next((found[key] for key in _keys(published.first_conv) if key in found), None)
    channels = published.input_size[0] if first is None else first.shape[1]
    mean, std = normalisation_of(checkpoint, architecture, channels, given_as)
    return {
        "num_classes": head.shape[0],
        "channels": channels,
        "size": None,
        "mean": mean,
        "std": std,
        "kwargs": {**layout.arguments, **_sizes(architecture, found), **arguments},
    }


def adopt(model: Classifier, checkpoint: Checkpoint, given_as: str) -> list[str]:
    """Puts weights of others, and the normalisation they were trained with, into a model.

    The classifier stays as it is where theirs is for other classes.

    Args:
        model: Of the architecture that the weights are of.
        checkpoint: The weights.
        given_as: Where they are from, for errors and notes.

    Returns:
        What a user should know of it, a sentence each.

    Raises:
        UserError: They are of another architecture, or not all there.
    """
    layout = _layout(checkpoint, given_as)
    wanted, notes = model.backbone.state_dict(), []
    named, left = {}, []
    for name, tensor in checkpoint.weights.items():
        own = layout.own_name(name)
        if own in wanted:
            named[own] = (name, _in_shape_of(wanted[own], tensor))
        elif own is not None:
            left.append(f"{shown_text(name, 100)} {tuple(tensor.shape)}")
    heads = sorted(model.head_names())
    if any(key not in named or named[key][1].shape != wanted[key].shape for key in heads):
        notes.append(_new_head(model, [named[key][1] for key in heads if key in named], given_as))
        named |= {key: (key, wanted[key]) for key in heads}
    misfits = [
        f"{shown_text(name, 100)} is {tuple(tensor.shape)}, not {tuple(wanted[own].shape)}"
        for own, (name, tensor) in named.items()
        if tensor.shape != wanted[own].shape
    ]
    missing = [key for key in wanted if key not in named and not key.endswith(_OPTIONAL)]
    if misfits or left or missing:
        raise _unfit(model, checkpoint, given_as, [misfits, left, missing], len(wanted))
    _require_arguments(model, layout, given_as)
    model.backbone.load_state_dict(wanted | {own: tensor for own, (_, tensor) in named.items()})
    if not checkpoint.mean:
        notes.append(f"{given_as} has no normalisation inside: that of '{model.name}' is taken")
    mean, std = normalisation_of(checkpoint, model.name, model.channels, given_as)
    for own_values, values in ((model.mean, mean), (model.std, std)):
        own_values.copy_(own_values.new_tensor(values).view(1, -1, 1, 1))
    return notes


def normalisation_of(
    checkpoint: Checkpoint, architecture: str, channels: int, given_as: str
) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of each channel that weights were trained with.

    Those inside the checkpoint, else what timm's registry says of the architecture: for our own
    networks for small images, none.

    Raises:
        UserError: They are of another number of channels.
    """
    published: Any = timm.get_pretrained_cfg(architecture)
    values = (checkpoint.mean or published.mean, checkpoint.std or published.std)
    if any(len(each) not in (1, channels) for each in values):
        raise UserError(
            f"{given_as} normalises {len(values[0])} channels, and the network takes {channels}"
        )
    mean, std = (list(each) if len(each) == channels else [*each] * channels for each in values)
    return mean, std


def _layout(checkpoint: Checkpoint, given_as: str) -> Layout:
    layout = layout_of(checkpoint.weights)
    if not layout.exists_here:
        raise UserError(f"{given_as} has the layout of {layout.title}, which have no network here")
    return layout


def _keys(modules: str | tuple[str, ...] | None) -> list[str]:
    each = (modules,) if isinstance(modules, str) else modules or ()
    return [f"{module}.weight" for module in each]


def _sizes(architecture: str, found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the sizes of an architecture of ours that its weights tell."""
    if "stem.conv.weight" not in found:
        return {}
    if architecture == "wide_resnet" and "stages.0.blocks.0.conv2.weight" in found:
        blocks = sum(name.endswith("conv2.weight") for name in found if name.startswith("stages."))
        widen = found["stages.0.blocks.0.conv2.weight"].shape[0] // 16
        return {"depth": 2 * blocks + 4, "widen": widen}
    width = found["stem.conv.weight"].shape[0]
    return {"base_width": width} if architecture.startswith("preact_") and width != 64 else {}


def _in_shape_of(wanted: Tensor, tensor: Tensor) -> Tensor:
    """Returns a linear layer's weights as those of a 1x1 convolution, or the other way round."""
    both = tuple(wanted.shape), tuple(tensor.shape)
    longer, shorter = sorted(both, key=len, reverse=True)
    return tensor.reshape(wanted.shape) if longer == (*shorter, 1, 1) else tensor


def _new_head(model: Classifier, theirs: list[Tensor], given_as: str) -> str:
    whose = f"is for {theirs[0].shape[0]} classes" if theirs else "is not in it"
    return (
        f"{given_as}: its classifier {whose}; the one for {model.num_classes} classes starts anew"
    )


def _require_arguments(model: Classifier, layout: Layout, given_as: str) -> None:
    """Raises `UserError` if a network would compute something else with the same weights."""
    absent = {key: value for key, value in layout.arguments.items() if key not in model.arguments}
    if absent:
        listed = ", ".join(f"{key}: {str(value).lower()}" for key, value in absent.items())
        raise UserError(
            f"{given_as} has the layout of {layout.title}, whose networks need --model.kwargs "
            f"'{{{listed}}}' (or another value, which you say); python -m dynat_ray.convert makes "
            "a model folder that says it itself"
        )


def _unfit(
    model: Classifier,
    checkpoint: Checkpoint,
    given_as: str,
    wrong: list[list[str]],
    number: int,
) -> UserError:
    misfits, left, missing = wrong
    found = [_listed(misfits), _listed(left, "fit nothing: ")]
    if missing:
        found.append(_listed(missing, f"{len(missing)} of {number} tensors are not in it: "))
    return UserError(
        f"{given_as} doesn't fit '{model.name}' built with {shortened(model.arguments)} for "
        f"{model.channels}x{model.size[0]}x{model.size[1]} images: "
        f"{'; '.join(filter(None, found))}; {_doubt(checkpoint)}"
    )


def _listed(items: list[str], before: str = "") -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{before}{', '.join(items[:_SHOWN])}{more}" if items else ""


def _doubt(checkpoint: Checkpoint) -> str:
    return f"the nearest layout known is that of {nearest_layout(checkpoint.weights).title}"
