"""How benchmarks take times and say them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from dynat_ray import interrupt

_Result = TypeVar("_Result")
# Of processes that begin with nothing of this one.
_PROCESSES: multiprocessing.context.BaseContext = multiprocessing.get_context("spawn")


@contextmanager
def cpu_threads(threads: int = 0) -> Iterator[int]:
    """Sets how many CPU threads an operation may use, and says so; 0: all cores."""
    before = torch.get_num_threads()
    threads = threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)


def in_environment(
    variables: Mapping[str, str], call: Callable[..., _Result], *args: object, **kwargs: object
) -> _Result:
    """Calls a function in a process of its own that starts with these environment variables too."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        with ProcessPoolExecutor(1, _PROCESSES) as pool:
            return pool.submit(call, *args, **kwargs).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def seconds_of(call: Callable[[], object], device: str | torch.device) -> float:
    """Returns how long a call takes, with what it leaves an accelerator to do."""
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def in_turn(
    what: str,
    calls: Mapping[str, Callable[[], float]],
    rounds: int,
    *,
    first_in_turn: bool = False,
) -> dict[str, list[float]]:
    """Times several things in turn, and says each time how long the rest will take.

    On Ctrl-C it ends with the rounds that are whole, if there is one.

    Args:
        what: Is measured, in a word.
        calls: By name, each with what it returns: the seconds that it took, which may be those of
            a part of it.
        rounds: How often each is called, at least once.
        first_in_turn: Every other round goes through them from the last to the first.

    Returns:
        By name what each round's call returned.
    """
    progress = Progress(what, rounds * len(calls))
    whole: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        names = list(calls)[:: -1 if first_in_turn and number % 2 else 1]
        now = {}
        try:
            for name in names:
                now[name] = calls[name]()
                progress.done(f"round {number + 1} of {rounds}  {name:<20} {now[name]:9.3f} s")
        except KeyboardInterrupt:
            if number == 0:
                raise
            print(f"{what}: stopped after {number} of {rounds} rounds", flush=True)
            break
        for name, seconds in now.items():
            whole[name].append(seconds)
        if interrupt.received():
            break
    return whole


class Progress:
    """Says what has been done, and how long the rest will take at the pace so far.

    Args:
        what: Is measured, in a word.
        total: How many times something will be done.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._began = time.monotonic()

    def done(self, words: str) -> None:
        """Says that one more is done.

        Args:
            words: What.
        """
        self._done += 1
        passed = time.monotonic() - self._began
        left = passed / self._done * (self._total - self._done)
        print(f"{self._what:<9} {words}   {duration(left)} left", flush=True)


def duration(seconds: float) -> str:
    """Returns seconds as minutes and seconds, such as `2:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Returns `median`, `min` and `max` of some ratios, rounded to two places."""
    return {
        "median": round(statistics.median(ratios), 2),
        "min": round(min(ratios), 2),
        "max": round(max(ratios), 2),
    }


def _wait(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
