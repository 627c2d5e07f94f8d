"""How a training ended, as its workers tell the command.

Ray Train's controller hands it on and imports this file, so that it imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingEnd:
    """How a training ended.

    Attributes:
        error: What the user can correct; empty: nothing.
        stopped: Before its last epoch, because a signal came.
    """

    error: str = ""
    stopped: bool = False
