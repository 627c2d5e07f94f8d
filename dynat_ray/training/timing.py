"""Where an epoch's time goes: waiting for images, and for a slow worker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from dynat_ray.barrier_time import working_time
from dynat_ray.collectives import gather_objects, rank, sum_over_workers, world_size

# A worker this many times slower than the others' median is named, if it also costs so much.
_TIMES_SLOWER = 2.0
_LEAST_SECONDS = 1.0

_Item = TypeVar("_Item")


def find_slow_worker(device: torch.device, place: str) -> str:
    """Returns a sentence about a worker much slower than the others; empty if there is none.

    Looks at the time since the last call. Every worker must call it.

    Args:
        device: Where workers exchange tensors.
        place: The machine that this worker runs on.
    """
    own = working_time.take()
    if world_size() == 1:
        return ""
    seconds = torch.zeros(world_size(), device=device)
    seconds[rank()] = own
    times: list[float] = sum_over_workers(seconds).tolist()
    slowest = max(range(len(times)), key=times.__getitem__)
    usual = statistics.median(times[:slowest] + times[slowest + 1 :])
    if times[slowest] < max(_TIMES_SLOWER * usual, usual + _LEAST_SECONDS):
        return ""
    places = gather_objects(place)
    return (
        f"worker {slowest} on {places[slowest]} works {times[slowest]:.1f} s where the others work "
        f"{usual:.1f} s, and all wait for it; look at that machine's load, memory, disk and GPU"
    )


class LoaderTime:
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
