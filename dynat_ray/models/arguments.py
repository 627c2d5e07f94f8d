"""Which keyword arguments an architecture takes, and with which values.

`timm.create_model` hands all it gets down a chain of factories, some of which download, open files
or fill caches, and a model folder of somebody else has arguments too. Only those of the
architecture itself go through, as numbers and short names.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, get_args, get_type_hints

import timm
import torch
from timm.models import build_model_with_cfg, load_checkpoint, load_pretrained, model_entrypoint
from timm.models import resolve_pretrained_cfg as resolve_cfg
from torch import nn

from dynat_ray.errors import UserError, unknown_name

# What timm's factories take for themselves; asked of timm, so that a new version's are among it.
_FACTORIES = (timm.create_model, build_model_with_cfg, resolve_cfg, load_pretrained)
_OF_FACTORIES = frozenset(
    name
    for factory in (*_FACTORIES, load_checkpoint)
    for name in inspect.signature(factory).parameters
)
# What decides where a network lies, or is said by the data.
_NOT_FREE = frozenset({"self", "cfg", "device", "dtype", "features_only", "feature_cls"})
# Names of timm's that are read on the way to the architecture.
_ON_THE_WAY = frozenset({"bn_eps", "bn_momentum"})
_NAME = re.compile(r"[A-Za-z0-9_-]{0,64}")
_LARGEST = 2**16
_MOST_VALUES = 1000
_DEEPEST = 8


def check_arguments(model: str, arguments: object, given_as: str) -> dict[str, Any]:
    """Returns keyword arguments that are the architecture's own and have plain values.

    Args:
        model: Name in timm's registry.
        arguments: Anything.
        given_as: Where they are from, for errors.

    Raises:
        UserError: They are no mapping, an argument is none of the architecture's, or its value is
            more than numbers and short names in lists and mappings.
    """
    if not isinstance(arguments, dict):
        raise UserError(f"{given_as} must be a mapping such as {{name: value}}")
    if not arguments:
        return {}
    taken = own_arguments(model)
    for name, value in arguments.items():
        if name in _OF_FACTORIES | _NOT_FREE:
            raise UserError(
                f"{given_as} has {name!r}, which the architecture '{model}' does not take itself "
                "(weights come through model.pretrained or model.init_from)"
            )
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise UserError(f"{given_as} has a name that is none: {shortened(name)}")
        if name not in taken:
            raise UserError(f"{given_as}: {unknown_name(f'argument of {model}', name, taken)}")
        if problem := _problem_of(value):
            raise UserError(f"{given_as}: {name} holds {problem}")
    return dict(arguments)


@cache
def own_arguments(model: str) -> frozenset[str]:
    """Returns the names of the keyword arguments that an architecture itself takes."""
    build = model_entrypoint(model.partition(".")[0])
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network: nn.Module = build(pretrained=False)
        except Exception:  # An architecture may look at its own numbers, in ways of its own.
            network = build(pretrained=False)
    names = _ON_THE_WAY | _named(build)[0]
    for kind in type(network).__mro__:
        if "__init__" not in vars(kind):
            continue
        named, takes_more = _named(vars(kind)["__init__"])
        names |= named
        if not takes_more:
            break
        if "cfg" in named:
            names |= set(_fields_of_config(kind))
    return names - _OF_FACTORIES - _NOT_FREE


def shortened(value: object, length: int = 100) -> str:
    """Returns a value of unknown origin as a short text of one line."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def _named(function: Any) -> tuple[frozenset[str], bool]:
    """Returns the names of a function's parameters, and whether it takes others by name."""
    parameters = inspect.signature(function).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = frozenset(each.name for each in parameters if each.kind not in several)
    return names, any(each.kind == each.VAR_KEYWORD for each in parameters)


def _fields_of_config(kind: type) -> Iterable[str]:
    """Returns the fields of the dataclass that `cfg` is: such a network overlays them."""
    hint = get_type_hints(vars(kind)["__init__"]).get("cfg")
    for each in (hint, *get_args(hint)):
        if dataclasses.is_dataclass(each):
            return [field.name for field in dataclasses.fields(each)]
    return []


def _problem_of(value: object) -> str:
    """Returns what is wrong with an argument's value; empty if nothing is."""
    left, seen = [(value, 0)], 0
    while left:
        each, depth = left.pop()
        seen += 1
        if seen > _MOST_VALUES or depth > _DEEPEST:
            return "too many values, or too deep ones"
        if isinstance(each, dict):
            if unfit := [key for key in each if not _is_name(key) or key in _OF_FACTORIES]:
                return f"{shortened(unfit[0])}, which is no name of a layer's setting"
            left += [(inner, depth + 1) for inner in each.values()]
        elif isinstance(each, list | tuple):
            left += [(inner, depth + 1) for inner in each]
        elif isinstance(each, str):
            if not _is_name(each):
                return f"{shortened(each)}, which is no name of a layer or mode"
        elif isinstance(each, int | float):
            if not abs(each) <= _LARGEST:  # which NaN is not either
                return f"a number that is not finite or beyond {_LARGEST}"
        elif each is not None:
            return f"a value of type {type(each).__name__}"
    return ""


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None
