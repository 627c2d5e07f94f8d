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
# Spans to remember before the older half, which the GPU has passed long ago, is added up.
_MOST_SPANS = 512


class WorkingTime:
    """Adds up the time outside of `at_barrier`, from the first on."""

    def __init__(self) -> None:
        self._since: _Moment | None = None
        self._spans: list[tuple[_Moment, _Moment]] = []
        self._seconds = 0.0

    @contextmanager
    def at_barrier(self) -> Iterator[None]:
        """What happens inside may wait for other workers."""
        began = _now()
        if self._since is not None:
            self._spans.append((self._since, began))
        # A meeting may lie within another.
        self._since = began
        if len(self._spans) == _MOST_SPANS:
            self._add_up(_MOST_SPANS // 2)
        try:
            yield
        finally:
            self._since = _now()

    def take(self) -> float:
        """Returns the seconds since the last call; waits for the device."""
        self._add_up(len(self._spans))
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _add_up(self, count: int) -> None:
        self._seconds += sum(_seconds(*span) for span in self._spans[:count])
        del self._spans[:count]


def _now() -> _Moment:
    """Returns a moment of the GPU's time where there is one: the host runs ahead of it."""
    if torch.cuda.is_initialized():
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


working_time = WorkingTime()
"""This process's."""
