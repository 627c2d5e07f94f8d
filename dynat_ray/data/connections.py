"""Threads that each wait for a store, and that nobody has to wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue

_SECONDS_TO_END = 1.0


class Connections:
    """Makes calls in threads of its own, several at once.

    A process that ends waits for the threads of Python's own pools, and so for a store that has
    stopped answering; not for these.

    Args:
        count: Most calls at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._calls: SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, call: Callable[[], None]) -> Future[None]:
        """Makes a call as soon as a thread is free; one that is cancelled before is not made.

        Once closed, all are cancelled.
        """
        future: Future[None] = Future()
        with self._lock:
            if self._is_closed:
                future.cancel()
                return future
            if len(self._threads) < self._count:
                thread = threading.Thread(target=self._work, name="connection", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Makes no more calls; returns soon, also while some wait for an answer."""
        with self._lock:
            self._is_closed = True
        while True:
            try:
                waiting = self._calls.get_nowait()
            except Empty:
                break
            if waiting is not None:
                waiting[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        end = time.monotonic() + _SECONDS_TO_END
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        self._threads = []

    def _work(self) -> None:
        while (waiting := self._calls.get()) is not None:
            future, call = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
