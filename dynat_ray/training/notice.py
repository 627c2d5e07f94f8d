"""What a run is told from outside while it trains."""

from __future__ import annotations

from enum import IntEnum


class Notice(IntEnum):
    """What a worker is told; where workers differ, the greatest counts."""

    NOTHING = 0
    DUE = 1
    """Time for a checkpoint; training goes on while it is written."""
    SAVE = 2
    """A machine will go: a checkpoint first, then on as long as it lasts."""
    STOP = 3
    """The run is to end: a checkpoint, and no more."""


class StopRequested(Exception):
    """The run was told to end and has written its checkpoint; all workers raise it alike."""
