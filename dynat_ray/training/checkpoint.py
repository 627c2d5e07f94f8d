"""Checkpoint files: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from dynat_ray.errors import UserError

_STATE = "state.pt"
_CHECKSUM = "state.sha256"


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) into `folder`, its checksum last.

    Raises:
        UserError: The disk is full or read-only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / _STATE)
        (folder / _CHECKSUM).write_text(_checksum(folder / _STATE))
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer.
        raise UserError(
            f"a checkpoint can't be written to {folder.parent}: {error}; free some space and run "
            "the same command with --resume (the checkpoint before it is untouched)"
        ) from error


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Returns a checkpoint's state on the CPU; None if it is damaged or incomplete."""
    try:
        if (folder / _CHECKSUM).read_text() != _checksum(folder / _STATE):
            return None
        state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError):
        return None
    return state


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
