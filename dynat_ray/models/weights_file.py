"""`model.safetensors` of a model folder: what it declares is looked at before it is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dynat_ray.errors import UserError
from dynat_ray.hardware import machine_memory_bytes
from dynat_ray.models.arguments import shortened

WEIGHTS_FILE = "model.safetensors"
# The library allows 100 MB, which would take its time.
_LARGEST_HEADER = 2**24
_FLOATS = ("F16", "BF16", "F32", "F64")
_INTEGERS = ("U8", "I8", "I16", "I32", "I64")


@dataclass(frozen=True)
class Declared:
    """What a weights file declares.

    Attributes:
        shapes: Of each tensor, by name.
        kinds: Its type in safetensors' words, by name.
    """

    shapes: dict[str, tuple[int, ...]]
    kinds: dict[str, str]

    @property
    def numbers(self) -> int:
        """How many numbers all tensors hold."""
        return sum(map(prod, self.shapes.values()))

    def difference(self, wanted: Mapping[str, Tensor]) -> str:
        """Returns where it differs from the state of a network; empty if nowhere."""
        if missing := [name for name in wanted if name not in self.shapes]:
            return f"they lack {shortened(missing[0])} and {len(missing) - 1} more"
        if extra := [name for name in self.shapes if name not in wanted]:
            return f"they have {shortened(extra[0])} and {len(extra) - 1} more that it has not"
        for name, tensor in wanted.items():
            shape = tuple(tensor.shape)
            if self.shapes[name] != shape:
                return f"{name} is {shortened(self.shapes[name])}, not {shape}"
            if self.kinds[name] not in (_FLOATS if tensor.is_floating_point() else _INTEGERS):
                return f"{name} holds {self.kinds[name]}, not {tensor.dtype}"
        return ""


def read_declared(file: Path) -> Declared:
    """Returns what a weights file declares, without its numbers.

    Raises:
        UserError: It is damaged, or its model would not fit into this machine's memory.
    """
    memory = machine_memory_bytes()
    try:
        with file.open("rb") as opened:
            (header,) = struct.unpack("<Q", opened.read(8))
            size = opened.seek(0, os.SEEK_END)
        if header > _LARGEST_HEADER:
            raise UserError(f"{file} is damaged: its header would have {header} bytes")
        # A file with holes may be far larger than what it takes on a disk.
        if size > memory:
            raise UserError(
                f"{file} has {size / 2**30:.0f} GiB, which do not fit into this machine's "
                f"{memory / 2**30:.0f} GiB of memory"
            )
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return Declared(
                {name: tuple(each.get_shape()) for name, each in slices.items()},
                {name: str(each.get_dtype()) for name, each in slices.items()},
            )
    except (OSError, OverflowError, RuntimeError, struct.error, SafetensorError) as error:
        raise _damaged(file, error) from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Returns the tensors of a weights file; raises `UserError` if it is damaged."""
    try:
        return safetensors.torch.load_file(file)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"{file} is damaged: {str(error).splitlines()[0][:200]}")
