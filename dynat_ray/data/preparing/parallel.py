"""Running a function over many items in threads, in order and with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 64


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Generator[Result, None, None]:
    """Yields `function(item)` of every item, in order; what it raises is raised here.

    At most 128 results per thread wait at any time, however many items there are. Whoever
    closes it before its end waits for no more than one item in each thread.
    """
    over = Event()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    remaining = iter(items)

    def run(chunk: list[Item]) -> list[Result]:
        return [function(item) for item in chunk if not over.is_set()]

    with ThreadPoolExecutor(threads or 1) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        try:
            while True:
                while len(waiting) < 2 * (threads or 1):
                    chunk = list(islice(remaining, _CHUNK))
                    if not chunk:
                        break
                    waiting.append(pool.submit(run, chunk))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            over.set()
            for future in waiting:
                future.cancel()
