"""Threads as workers: what they gather goes through memory, so that many cost nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

_PATIENCE = 60


class _Meeting:
    """Stands for the process group: each thread brings something, and takes what all brought."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.own = threading.local()
        self._brought: list[Any] = [None] * workers
        self._barrier = threading.Barrier(workers, timeout=_PATIENCE)

    def exchange(self, value: Any) -> list[Any]:
        self._brought[self.own.rank] = value
        self._barrier.wait()
        everyone = list(self._brought)
        # Nobody brings the next before all have taken this.
        self._barrier.wait()
        return everyone

    def abort(self) -> None:
        self._barrier.abort()


def run_threads(
    function: Callable[[int], None], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls `function(rank)` in so many threads, each a worker of one group.

    They can gather tensors and objects, and reduce nothing. What one of them raises is raised.
    """
    meeting = _Meeting(workers)

    def all_gather_object(everyone: list[Any], value: Any) -> None:
        everyone[:] = meeting.exchange(value)

    def all_gather(parts: list[Tensor], value: Tensor) -> None:
        for part, brought in zip(parts, meeting.exchange(value), strict=True):
            part.copy_(brought)

    def all_gather_into_tensor(whole: Tensor, value: Tensor) -> None:
        whole.copy_(torch.cat(meeting.exchange(value)))

    def run(rank: int) -> None:
        meeting.own.rank = rank
        try:
            function(rank)
        except BaseException:
            meeting.abort()
            raise

    with monkeypatch.context() as patch:
        patch.setattr(dist, "is_initialized", lambda: True)
        patch.setattr(dist, "get_rank", lambda: meeting.own.rank)
        patch.setattr(dist, "get_world_size", lambda: workers)
        patch.setattr(dist, "all_gather_object", all_gather_object)
        patch.setattr(dist, "all_gather", all_gather)
        patch.setattr(dist, "all_gather_into_tensor", all_gather_into_tensor)
        with ThreadPoolExecutor(workers) as threads:
            # Each waits for the others, so that all must run at once.
            for answer in [threads.submit(run, rank) for rank in range(workers)]:
                answer.result()
