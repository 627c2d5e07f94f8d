"""How benchmarks take times and say them."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


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
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
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
