"""Networks by name from timm's registry, with errors a user can act on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from errno import EDQUOT, ENOSPC
from typing import Any

import timm
from torch import nn

from dynat_ray.errors import UserError, unknown_name
from dynat_ray.models.arguments import check_arguments, shortened

_NAME = re.compile(r"\w{1,100}(\.\w{1,100})?", re.ASCII)


def require_known(name: str) -> None:
    """Raises `UserError`, with the nearest names, unless timm's registry has this model."""
    # Not sources that timm's factory would follow: hubs, folders.
    if not _NAME.fullmatch(name):
        raise UserError(f"a model's name in timm's registry can't be {shortened(name)}")
    if not timm.is_model(name):
        raise unknown_name("model", name, timm.list_models())
    architecture, _, tag = name.partition(".")
    if tag and name not in (known := timm.list_pretrained(f"{architecture}.*")):
        raise unknown_name("model", name, known)


def create_backbone(
    name: str, num_classes: int, channels: int, arguments: object, given_as: str = "model.kwargs"
) -> nn.Module:
    """Returns an architecture of timm's registry with random weights.

    Args:
        name: In the registry.
        num_classes: Number of classes.
        channels: Channels of an image.
        arguments: Keyword arguments of the architecture.
        given_as: Where they are from, for errors.

    Raises:
        UserError: Unknown name, or arguments that are not the architecture's own or don't fit.
    """
    require_known(name)
    arguments = check_arguments(name, arguments, given_as)
    try:
        model: nn.Module = timm.create_model(
            name, num_classes=num_classes, in_chans=channels, **arguments
        )
    except MemoryError:
        raise
    except Exception as error:  # Architectures check arguments each in its own way, if at all.
        raise _does_not_fit(name, arguments, error, given_as) from error
    return model


def create_pretrained(
    name: str, num_classes: int, channels: int, arguments: Mapping[str, Any]
) -> nn.Module:
    """Returns the same with timm's published weights; the classifier is new if it has to be.

    Raises:
        UserError: There are none, or they can't be downloaded.
    """
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=True, num_classes=num_classes, in_chans=channels, **arguments
        )
    # The same call without weights has worked, and network libraries raise types of their own.
    except Exception as error:
        raise UserError(
            f"the published weights of model '{name}' can't be had ({first_line(error)}); "
            f"{_advice(error)}, or give --model.pretrained false or --model.init_from FOLDER"
        ) from error
    return model


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _advice(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return "make room on the disk"
    if isinstance(error, PermissionError):
        return "make that folder writable"
    # Of PyTorch and timm; network libraries derive theirs from OSError, or from Exception alone.
    wrong = isinstance(error, (RuntimeError, TypeError, ValueError, LookupError))
    if wrong and not isinstance(error, OSError):
        return "check model.name and model.kwargs"
    return "check the connection"


def _does_not_fit(
    name: str, arguments: Mapping[str, Any], error: Exception, given_as: str
) -> UserError:
    return UserError(
        f"model '{name}' can't be built with {shortened(dict(arguments), 300)} "
        f"({first_line(error)[:300]}); check {given_as} and the size of the images"
    )
