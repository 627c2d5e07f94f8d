"""Holds methods to what `Method` promises, so that one that breaks it is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, fields
from typing import Any

from torch import Tensor, nn

from dynat_ray.data import Batch
from dynat_ray.errors import UserError
from dynat_ray.methods.base import Method, MethodLoss, Prepared


class ContractError(UserError):
    """A method does not do what every method must."""


def checked_prepare(
    method: Method[Any], network: nn.Module, batch: Batch, keys: Tensor
) -> Prepared:
    """Calls `Method.prepare`.

    Raises:
        ContractError: It returns something else than a `Prepared`, or changes the batch.
    """
    with _unchanged(method, "prepare", batch):
        prepared = method.prepare(network, batch, keys)
    if not isinstance(prepared, Prepared):
        raise _broken(method, f"prepare must return a Prepared, not {type(prepared).__name__}")
    return prepared


def checked_loss(method: Method[Any], network: nn.Module, prepared: Prepared) -> MethodLoss:
    """Calls `Method.loss`.

    Raises:
        ContractError: It returns something else than a `MethodLoss` with a loss for the whole
            batch and values for each sample, or changes what it was given.
    """
    with _unchanged(method, "loss", prepared.batch):
        result = method.loss(network, prepared)
    if not isinstance(result, MethodLoss):
        raise _broken(method, f"loss must return a MethodLoss, not {type(result).__name__}")
    if result.loss.dim() != 0 or not result.loss.requires_grad:
        raise _broken(
            method,
            "loss must be a scalar that is differentiable in the weights; it has shape "
            f"{tuple(result.loss.shape)}, requires_grad {result.loss.requires_grad}",
        )
    size = len(prepared.batch.labels)
    for name, values in {**prepared.record, **result.record}.items():
        if values.shape != (size,):
            raise _broken(
                method, f"'{name}' of its record has shape {tuple(values.shape)}, not ({size},)"
            )
    return result


@contextmanager
def _unchanged(method: Method[Any], half: str, batch: Batch) -> Iterator[None]:
    """Raises `ContractError` if the batch is changed meanwhile, as its tensors' versions tell."""
    tensors = {
        field.name: value
        for field in fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    before = {name: tensor._version for name, tensor in tensors.items()}
    try:
        yield
    except FrozenInstanceError as error:
        raise _broken(method, f"{half} changes what it was given ({error})") from error
    for name, tensor in tensors.items():
        if tensor._version != before[name]:
            raise _broken(method, f"{half} changes the {name} of its batch; it must copy them")


def _broken(method: Method[Any], words: str) -> ContractError:
    return ContractError(f"method '{method.settings.name}' breaks its contract: {words}")
