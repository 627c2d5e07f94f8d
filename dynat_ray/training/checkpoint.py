"""Checkpoint files: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path
from typing import Any

import torch

from dynat_ray.collectives import max_over_workers
from dynat_ray.errors import UserError

# Steps between two looks at the clock: workers have to agree, and each looks at its own.
_STEPS_BETWEEN_LOOKS = 20
_STATE = "state.pt"
_CHECKSUM = "state.sha256"


def checkpoint_name(epochs: int, step: int) -> str:
    """Returns a checkpoint's name: that of the epoch it ends, or is in.

    Args:
        epochs: Epochs done, at least one unless `step` is positive.
        step: Steps done of the epoch after them.
    """
    return f"epoch_{epochs:04d}_step_{step:07d}" if step else f"epoch_{epochs - 1:04d}"


def checkpoint_folders(parent: Path) -> list[Path]:
    """Returns the checkpoint folders in `parent`, newest first."""
    found = []
    for folder in parent.iterdir() if parent.is_dir() else ():
        match = re.fullmatch(r"epoch_(\d+)(?:_step_(\d+))?", folder.name)
        if match and folder.is_dir():
            epoch, step = int(match[1]), match[2]
            found.append((epoch, int(step), folder) if step else (epoch + 1, 0, folder))
    return [folder for *_, folder in sorted(found, reverse=True)]


class CheckpointClock:
    """Says when a checkpoint inside an epoch is due, the same on all workers.

    Args:
        minutes: Between two checkpoints; 0: never.
        device: Where workers exchange tensors.
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self._device = device
        self._seconds = 60 * minutes
        self._last = time.monotonic()
        self._steps = 0

    def is_due(self) -> bool:
        """Returns whether it is time; every worker must ask after every step."""
        self._steps += 1
        if self._seconds <= 0 or self._steps % _STEPS_BETWEEN_LOOKS:
            return False
        late = torch.tensor(float(time.monotonic() - self._last >= self._seconds))
        if max_over_workers(late.to(self._device)).item() == 0:
            return False
        self._last = time.monotonic()
        return True


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
