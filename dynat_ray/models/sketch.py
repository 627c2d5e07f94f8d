"""An architecture without numbers, to see what it would take before it takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules

# Heads are made anew, weights are tied, and tables that are no weights stand in no file.
_TIMES = 4
_SPARE_NUMBERS = 2**26
_PARTS_PER_TENSOR = 64
_SPARE_PARTS = 2**12


class TooLarge(Exception):
    """An architecture has more numbers or parts than its weights file could stand for."""


@contextmanager
def at_most(numbers: int, tensors: int) -> Iterator[None]:
    """Ends the building of a network that outgrows its weights, before memory does.

    Args:
        numbers: That its weights hold.
        tensors: That they are.

    Raises:
        TooLarge: It does.
    """
    left = {"numbers": _TIMES * numbers + _SPARE_NUMBERS, "parts": _PARTS_PER_TENSOR * tensors}
    left["parts"] += _SPARE_PARTS

    def see(_: nn.Module, name: str, value: Any) -> None:
        left["parts"] -= 1
        if isinstance(value, Tensor):
            left["numbers"] -= value.numel()
        if min(left.values()) < 0:
            raise TooLarge(f"it outgrows them at {name}")

    with ExitStack() as stack:
        for register in (
            modules.register_module_module_registration_hook,
            modules.register_module_parameter_registration_hook,
            modules.register_module_buffer_registration_hook,
        ):
            stack.callback(register(see).remove)
        yield


@contextmanager
def without_numbers() -> Iterator[None]:
    """Makes tensors without numbers (torch's meta device) and leaves random streams alone."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield
