"""Files with weights of others (`.safetensors`, `.pt`, ...), read without running their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynat_ray.errors import UserError
from dynat_ray.hardware import machine_memory_bytes
from dynat_ray.models.arguments import shortened
from dynat_ray.models.importing.unwrapping import Checkpoint, unwrap
from dynat_ray.models.weights_file import read_declared, read_weights

PICKLE_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".bin", ".pkl", ".pickle")
_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
# Tensors may share their numbers, as an average does that nobody has updated.
_MOST_NUMBERS_PER_BYTE = 4


def is_checkpoint_file(name: str | Path) -> bool:
    """Returns whether a name is that of a file with weights."""
    return Path(name).suffix in _SUFFIXES


def read_checkpoint(file: Path) -> Checkpoint:
    """Returns the weights that a file holds, without what they were wrapped in.

    Pickles are read by `torch.load(weights_only=True)`, which makes tensors and plain values and
    calls nothing else.

    Args:
        file: A `.safetensors` file, or one that `torch.save` made.

    Raises:
        UserError: It can't be read, needs code of its own, holds no weights, or weights that are
            not finite.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    if file.suffix == ".safetensors":
        read_declared(file)
        content: Any = read_weights(file)
    else:
        content = _read_pickle(file)
    checkpoint = unwrap(content, file)
    _check(checkpoint.weights, file)
    return checkpoint


def _read_pickle(file: Path) -> Any:
    memory = machine_memory_bytes()
    if file.stat().st_size > memory:
        raise UserError(
            f"{file} has {file.stat().st_size / 2**30:.0f} GiB, which do not fit into this "
            f"machine's {memory / 2**30:.0f} GiB of memory"
        )
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    # A file of anybody's can fail in any way; what is wrong with it, torch says at length.
    except Exception as error:
        text = str(error)
        if "weights_only" in text or "Weights only" in text:
            raise _needs_code(file, text) from error
        reason = (text.splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{file} can't be read: {type(error).__name__}: {reason}") from error


def _needs_code(file: Path, text: str) -> UserError:
    """Returns the error for a pickle with more than weights, and what makes weights of it."""
    named = [line.strip() for line in text.splitlines() if "GLOBAL" in line]
    what = f" ({shortened(named[0], 120)})" if named else ""
    line = (
        f"import torch; c = torch.load({str(file)!r}, 'cpu', weights_only=False); "
        "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c.state_dict(); "
        "torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, 'weights.pt')"
    )
    return UserError(
        f"{file} is a pickle that needs more than weights to be read{what}, and that could run any "
        f'code; if you trust whoever made it, python -c "{line}" makes a file of weights, on a '
        "machine where it may"
    )


def _check(weights: dict[str, Tensor], file: Path) -> None:
    numbers = sum(tensor.numel() for tensor in weights.values())
    if numbers > _MOST_NUMBERS_PER_BYTE * file.stat().st_size:
        raise UserError(f"{file} is damaged: it declares more numbers than it holds")
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{file} holds numbers that are not finite, in {shortened(name)}: its training "
                "went wrong; take an earlier checkpoint"
            )
