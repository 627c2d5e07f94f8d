"""Polling something that changes while a context lasts."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

PollerT = TypeVar("PollerT", bound="Poller")


class Poller(ABC):
    """Polls in a thread of its own, and once more when the context ends.

    Args:
        seconds: Between two polls.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self: PollerT) -> PollerT:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self.poll_last()

    @abstractmethod
    def poll(self) -> None:
        """Takes in what has changed."""

    def poll_last(self) -> None:
        """Takes in the last changes, when all is over."""
        self.poll()

    def _follow(self) -> None:
        while not self._done.wait(self._seconds):
            self.poll()
