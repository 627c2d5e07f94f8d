"""Checkpoint files: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dynat_ray.atomic_files import atomic_write, atomic_write_text, make_folder
from dynat_ray.bounded_file import read_bounded
from dynat_ray.collectives import max_over_workers
from dynat_ray.errors import UserError
from dynat_ray.training.checkpoint_content import require_stored
from dynat_ray.training.session import Notice

# Workers have to agree whether a checkpoint is due, which waits for the device: not at every step,
# but often enough that a notice of two minutes is seen in time, however long a step takes.
_STEPS_BETWEEN_LOOKS = 20
_SECONDS_BETWEEN_LOOKS = 5.0
_FIRST_LOOK = 5
STATE_FILE = "state.pt"
CHECKSUM_FILE = "state.sha256"


class CheckpointClock:
    """Says when a checkpoint inside an epoch is due, the same on all workers.

    Args:
        minutes: Between two checkpoints; 0: only when a notice asks for one.
        device: Where workers exchange tensors.
    """

    def __init__(self, minutes: float, device: torch.device) -> None:
        self._device = device
        self._seconds = 60 * minutes
        self._last = self._looked = time.monotonic()
        self._steps = 0
        self._next_look = min(_FIRST_LOOK, _STEPS_BETWEEN_LOOKS)

    def agree(
        self, own_notice: Callable[[], Notice], busy: bool, *, at_once: bool = False
    ) -> tuple[Notice, bool]:
        """Lets the workers agree, now and then; every worker must ask after every step.

        Args:
            own_notice: Returns the notice that this worker has.
            busy: Whether it is still writing a checkpoint.
            at_once: They agree now, whatever was asked since they last did.

        Returns:
            What all workers do now, and whether it is known that none of them is busy.
        """
        self._steps += 1
        if self._steps < self._next_look and not at_once:
            return Notice.NOTHING, False
        now = time.monotonic()
        own = own_notice()
        if 0 < self._seconds <= now - self._last:
            own = max(own, Notice.DUE)
        step_seconds = (now - self._looked) / self._steps
        values = torch.tensor([float(own), float(busy), step_seconds]).to(self._device)
        highest, any_busy, step_seconds = max_over_workers(values).tolist()
        notice = Notice(int(highest))
        by_time = int(_SECONDS_BETWEEN_LOOKS / max(step_seconds, 1e-6))
        self._next_look = max(1, min(_STEPS_BETWEEN_LOOKS, by_time))
        self._looked, self._steps = now, 0
        return notice, not any_busy

    def restart(self) -> None:
        """Takes in that a checkpoint was begun just now."""
        self._last = time.monotonic()


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) into `folder`, its checksum last.

    Raises:
        UserError: The disk is full or read-only.
    """
    try:
        make_folder(folder)
        # Into a stream: torch would write a path's name into the file.
        with atomic_write(folder / STATE_FILE) as partial, partial.open("wb") as stream:
            torch.save(state, stream)
        atomic_write_text(folder / CHECKSUM_FILE, _checksum(folder / STATE_FILE))
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, in words of its own.
        reason = "the disk is full or failing"
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise UserError(
            f"a checkpoint can't be written to {folder.parent}: {reason}; free some space and run "
            "the same command with --resume (the checkpoint before it is untouched)"
        ) from error


def is_complete(folder: Path) -> bool:
    """Returns whether all files of a checkpoint are there."""
    return all((folder / name).is_file() for name in (STATE_FILE, CHECKSUM_FILE))


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Returns a checkpoint's state on the CPU; None if it is damaged, incomplete or not ours."""
    try:
        wanted = read_bounded(folder / CHECKSUM_FILE).decode()
        if not is_complete(folder) or wanted != _checksum(folder / STATE_FILE):
            return None
        require_stored(folder / STATE_FILE)
        file = folder / STATE_FILE
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # Damaged content may end torch's reader with anything.
        return None
    return state


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
