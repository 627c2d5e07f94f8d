"""For how long a training loop waits for its next batch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


class Waiting:
    """Adds up the time that an iterator takes; a device that has work left waits for less."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def over(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yields the items."""
        iterator = iter(items)
        while True:
            began = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._seconds += time.perf_counter() - began
            yield item

    def take(self) -> float:
        """Returns the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
