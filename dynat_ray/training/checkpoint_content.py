"""What a checkpoint must hold for a run to go on from it; its file may be from anywhere."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

_KINDS: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "epoch": (int,),
    "step": (int,),
    "epoch_steps": (int,),
    "record": (dict, NoneType),
    "global_step": (int,),
    "units": (int,),
    "units_before": (int,),
    "elapsed": (float, int),
    "best_score": (list,),
    "best_epoch": (int,),
    "best_weights": (dict,),
    "waiting": (list,),
    "model": (dict,),
    "average": (dict, NoneType),
    "optimizer": (dict,),
    "method": (dict,),
    "extra": (dict,),
    "carried": (dict, NoneType),
    "random": (list,),
}
# Values within one another, and all of them: far more than those of the largest networks.
_DEEPEST = 50
_MOST_VALUES = 10**6
# What optimisers keep of each parameter; of others only that it is in memory is checked.
_KEPT = {
    "SGD": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
}


def require_stored(file: Path) -> None:
    """Raises `ValueError` unless a file is an archive without compression, as torch writes them.

    Compressed content could be a thousand times as large as the file.
    """
    with zipfile.ZipFile(file) as archive:
        if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
            raise ValueError("it is compressed")


def is_well_formed(state: object) -> bool:
    """Returns whether a state has all parts of a run's, of their types, and fits together."""
    if not isinstance(state, dict) or not _is_in_memory(state):
        return False
    if not all(key in state and isinstance(state[key], kinds) for key, kinds in _KINDS.items()):
        return False
    names = ("epoch", "step", "epoch_steps", "global_step", "units", "units_before")
    counts = [state[name] for name in names]
    best = state["best_score"]
    return (
        min(counts) >= 0
        and state["step"] <= state["epoch_steps"]
        and math.isfinite(state["elapsed"])
        and len(best) == 2
        and all(isinstance(score, int | float) for score in best)
        and all(map(_is_waiting_epoch, state["waiting"]))
        and (state["record"] is None or _is_record(state["record"]))
        and len(state["random"]) > 0
        and all(isinstance(each, dict) and "cpu" in each for each in state["random"])
    )


def require_fitting_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raises an exception unless an optimiser's state has what each of its parameters needs.

    Args:
        state: Of a checkpoint.
        optimizer: That is to take it.
    """
    groups, kept = state["param_groups"], _KEPT.get(type(optimizer).__name__)
    numbers = [number for group in groups for number in group["params"]]
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        found = state["state"].get(number, {})
        if kept is None or not found:
            continue
        if missing := kept - found.keys():
            raise ValueError(f"the optimiser lacks {missing.pop()}")
        for name in kept:
            value = found[name]
            fits = name == "step" or value is None or value.shape == parameter.shape
            if not fits:
                raise ValueError(f"the optimiser's {name} is {tuple(value.shape)}")


def require_alike(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` unless weights have the names and shapes of `wanted`."""
    if different := [
        name
        for name in weights.keys() | wanted.keys()
        if name not in weights or name not in wanted or weights[name].shape != wanted[name].shape
    ]:
        raise ValueError(f"weights that it keeps differ at {different[0]!r:.100}")


def _is_waiting_epoch(epoch: object) -> bool:
    if not isinstance(epoch, dict) or epoch.keys() != {"line", "weights"}:
        return False
    line, weights = epoch["line"], epoch["weights"]
    return (
        isinstance(line, dict)
        and isinstance(line.get("epoch"), int)
        and all(isinstance(value, str | int | float | NoneType) for value in line.values())
        and isinstance(weights, dict)
        and all(isinstance(value, Tensor) for value in weights.values())
    )


def _is_record(record: dict[str, Any]) -> bool:
    columns, losses = record.get("columns"), record.get("losses")
    if not isinstance(columns, dict) or not isinstance(losses, Tensor) or losses.dim() != 1:
        return False
    numbers = [record.get(name) for name in ("passes", "seconds", "loader_seconds")]
    lengths = {
        tuple(values.shape) if isinstance(values, Tensor) else None for values in columns.values()
    }
    whole = all(
        name in columns
        and isinstance(columns[name], Tensor)
        and not columns[name].is_floating_point()
        for name in ("index", "label")
    )
    return (
        (not columns or whole)
        and len(lengths) <= 1
        and all(length is not None and len(length) == 1 for length in lengths)
        and all(isinstance(number, int | float) for number in numbers)
    )


def _is_in_memory(state: object) -> bool:
    """Returns whether every tensor has a place for each of its numbers, and nothing is too deep.

    One of a few bytes may say that it is of any size, which copying it would then take. What holds
    itself has no end.
    """
    left, seen = [(state, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_VALUES:
            return False
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu":
                return False
            if value.numel() * value.itemsize > value.untyped_storage().nbytes():
                return False
        elif isinstance(value, dict):
            left += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list | tuple | set):
            left += [(each, depth + 1) for each in value]
    return True
