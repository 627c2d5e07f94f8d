"""How this process ends on a signal."""

from __future__ import annotations

import signal
from types import FrameType


class SigTerm:
    """Whether SIGTERM has come."""

    received = False


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM ends a command as Ctrl-C does, with a word instead of a stack trace.

    A library that listens to it itself must have been started before. Only on the main thread.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        SigTerm.received = True
        # Of all exceptions Ray passes on this one alone while it waits for something.
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
