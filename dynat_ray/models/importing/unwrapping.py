"""A state dict out of what a training script saved: wrappers and normalisation come off by rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynat_ray.errors import UserError
from dynat_ray.models.arguments import shortened

# Where scripts keep the weights, the averaged ones first: those are what they evaluated.
_PLACES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema"),
    *("model_state_dict", "state_dict", "model", "net", "network", "weights", "params"),
)
_AVERAGED = _PLACES[:5]
# Modules that hold a network as a whole; "1" is that of `Sequential(normalisation, network)`.
_WRAPPERS = {
    *("module", "model", "_orig_mod", "backbone", "net", "network", "basic_net"),
    *("ema", "ema_model", "1"),
}
_MEAN = re.compile(r"(?:(\w+)\.)?(?:mean|mu|means|_mean|new_mean)")
_STD = re.compile(r"(?:(\w+)\.)?(?:std|sigma|stds|_std|new_std)")
_MOST_CHANNELS = 16
# MadryLab's robustness keeps the network a second time inside its attacker.
_COPIES = ("attacker.",)
_COUNTERS = {"n_averaged"}
_DEEPEST = 4


@dataclass(frozen=True)
class Checkpoint:
    """Weights of others.

    Attributes:
        weights: By name, as the network itself names them.
        mean: Of each channel in [0, 1] pixels, where it was part of the network; else empty.
        std: Standard deviation of each channel, likewise.
        averaged: They are an average over training steps, and the file holds others too.
    """

    weights: dict[str, Tensor]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    averaged: bool = False


def unwrap(content: Any, file: Path) -> Checkpoint:
    """Returns the weights in what a file holds.

    Args:
        content: Of a file: a state dict, or mappings with one somewhere inside.
        file: Where it is from, for errors.

    Raises:
        UserError: There are no weights, or weights of a kind that no network here has.
    """
    path = _path_to_weights(content)
    state = content
    for key in path:
        state = state[key]
    weights = {
        name: value
        for name, value in (state.items() if isinstance(state, Mapping) else ())
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not weights:
        found = list(content) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(f"{file} holds no weights by name, but {shortened(found)}")
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise UserError(f"{file}: {shortened(name)} is sparse, quantised or complex")
    mean, std = _take_off(weights)
    return Checkpoint(weights, mean, std, averaged=any(key in _AVERAGED for key in path))


def _path_to_weights(content: Any) -> tuple[str, ...]:
    path: tuple[str, ...] = ()
    while len(path) < _DEEPEST and isinstance(content, Mapping):
        inner = [key for key in _PLACES if isinstance(content.get(key), Mapping)]
        inner = [key for key in inner if content[key]]
        if not inner:
            break
        content, path = content[inner[0]], (*path, inner[0])
    return path


def _take_off(weights: dict[str, Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Takes wrappers off the names, and normalisation, copies and counters out of the weights."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    while True:
        for name in [each for each in weights if each in _COUNTERS or each.startswith(_COPIES)]:
            del weights[name]
        mean, std = _normalisation(weights) or (mean, std)
        first = {name.partition(".")[0] for name in weights}
        if len(first) != 1 or not first <= _WRAPPERS or any("." not in name for name in weights):
            return mean, std
        for name in list(weights):
            weights[name.partition(".")[2]] = weights.pop(name)


def _normalisation(
    weights: dict[str, Tensor],
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Takes out mean and standard deviation of the same module, if there are such."""
    means = {match[1]: name for name in weights if (match := _MEAN.fullmatch(name))}
    stds = {match[1]: name for name in weights if (match := _STD.fullmatch(name))}
    for module in means:
        if module not in stds:
            continue
        mean, std = weights[means[module]], weights[stds[module]]
        if 1 <= mean.numel() == std.numel() <= _MOST_CHANNELS and bool((std > 0).all()):
            del weights[means[module]], weights[stds[module]]
            return tuple(mean.flatten().tolist()), tuple(std.flatten().tolist())
    return None
