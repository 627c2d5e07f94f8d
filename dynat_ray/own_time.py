"""How long this worker works without waiting for the others: what tells a slow one from the rest.

All workers take the same time for a step, since they meet in it. The time between one meeting's end
and the next one's beginning is each worker's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_Moment = float | torch.cuda.Event


class OwnTime:
    """Adds up the time outside of `meeting`."""

    def __init__(self) -> None:
        self._since = _now()
        self._spans: list[tuple[_Moment, _Moment]] = []

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """What happens inside may wait for other workers."""
        self._spans.append((self._since, _now()))
        try:
            yield
        finally:
            self._since = _now()

    def take(self) -> float:
        """Returns the seconds since the last call; waits for the device."""
        spans, self._spans = self._spans, []
        return sum(_seconds(*span) for span in spans)


def _now() -> _Moment:
    """Returns a moment of the GPU's time where there is one: the host runs ahead of it."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
    return time.perf_counter()


def _seconds(begin: _Moment, end: _Moment) -> float:
    if isinstance(begin, float):
        # The GPU may have come into use in between.
        return end - begin if isinstance(end, float) else 0.0
    if isinstance(end, float):
        return 0.0
    end.synchronize()
    return begin.elapsed_time(end) / 1000


own_time = OwnTime()
"""This process's."""
