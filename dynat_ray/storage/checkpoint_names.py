"""Names of checkpoints, and the order that they tell."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints."""
CHECKPOINTS_KEPT = 2
"""The newest; of two, one is whole whatever dies while the other is written."""
# Workers exchange both numbers as integers of 64 bits.
_NAME = re.compile(r"epoch_([0-9]{1,12})(?:_step_([0-9]{1,12}))?")


def checkpoint_name(epochs: int, step: int) -> str:
    """Returns a checkpoint's name: that of the epoch it ends, or is in.

    Args:
        epochs: Epochs done, at least one unless `step` is positive.
        step: Steps done of the epoch after them.
    """
    return f"epoch_{epochs:04d}_step_{step:07d}" if step else f"epoch_{epochs - 1:04d}"


def checkpoint_order(name: str) -> tuple[int, int] | None:
    """Returns epochs and further steps done at a checkpoint; None if `name` is none's."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    epoch, step = int(match[1]), match[2]
    return (epoch, int(step)) if step else (epoch + 1, 0)


def checkpoint_folders(parent: Path) -> list[Path]:
    """Returns the checkpoint folders in `parent`, newest first."""
    found = [
        (order, folder)
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if (order := checkpoint_order(folder.name)) and folder.is_dir()
    ]
    return [folder for _, folder in sorted(found, reverse=True)]
