"""How a worker hears that its run is to end, or that a machine goes.

A command that receives a signal (`dynat_ray.distributed.graceful_stop`) sets a flag in the cluster,
which the first worker looks for. A worker that receives SIGTERM itself, or whose node Ray drains,
asks for a checkpoint; it then ends, and Ray Train starts the others again without it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import ray.train

from dynat_ray.distributed.ray_internals import preemption_info
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.training.session import Notice

_SIGTERM_STATUS = 128 + signal.SIGTERM  # What a shell calls the exit of a process that it ended.
_SECONDS_BETWEEN_POLLS = 0.5
# A worker that received SIGTERM ends then at the latest, whatever it is in the middle of.
_GRACE_SECONDS = 120.0


class _WorkerSignal:
    """Whether this process, as a worker, received SIGTERM."""

    received = False


def listen_to_sigterm() -> None:
    """Makes a worker listen to SIGTERM; on its main thread, where alone that can be done."""

    def receive(number: int, frame: FrameType | None) -> None:
        if not _WorkerSignal.received:
            _WorkerSignal.received = True
            last = threading.Timer(_GRACE_SECONDS, os._exit, [_SIGTERM_STATUS])
            last.daemon = True
            last.start()

    signal.signal(signal.SIGTERM, receive)


class FlagDown(ray.train.UserCallback):
    """Takes back that a training has begun when its workers have died; the next ones say so anew.

    Args:
        stopping: The flag of the training.
    """

    def __init__(self, stopping: StopFlag) -> None:
        self._stopping = stopping

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._stopping.end(saved=False)


class WorkerNotices:
    """What one worker is to do: go on, write a checkpoint, end.

    Args:
        stopping: How the command says that the run is to end.
        rank: The worker's.
    """

    def __init__(self, stopping: StopFlag, rank: int) -> None:
        self._stopping, self._rank = stopping, rank
        self._polled = 0.0
        self._known: ray.train.PreemptionInfo | None = None

    def poll(self) -> Notice:
        """Returns what is new since the last call of `saved`."""
        now = time.monotonic()
        if self._rank == 0 and now - self._polled >= _SECONDS_BETWEEN_POLLS:
            self._polled = now
            if self._stopping.is_set():
                return Notice.STOP
        if _WorkerSignal.received or preemption_info() != self._known:
            return Notice.SAVE
        return Notice.NOTHING

    def saved(self) -> None:
        """Ends this worker if it received SIGTERM; nodes that are drained are known now."""
        self._known = preemption_info()
        if _WorkerSignal.received:
            os._exit(_SIGTERM_STATUS)
