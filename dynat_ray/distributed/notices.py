"""How a run hears that it is to end, or that a machine goes: SIGTERM and Ray's drained nodes.

A command that receives SIGTERM (`ray job stop`, Slurm, `kill`) sets a flag in the cluster, which
the first worker looks for. A worker that receives it itself, or whose node Ray drains, asks for a
checkpoint; it then ends, and Ray Train starts the others again without it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from types import FrameType, TracebackType
from typing import Any

import ray.train
from ray.train.torch import TorchConfig

from dynat_ray.distributed.ray_internals import (
    flag_is_set,
    is_command,
    open_store_with,
    preemption_info,
    remove_flag,
    set_flag,
)
from dynat_ray.distributed.rendezvous import listen_on_little, node_address, open_store
from dynat_ray.training.session import Notice

_SIGTERM_STATUS = 128 + signal.SIGTERM  # What a shell calls the exit of a process that it ended.
_SECONDS_BETWEEN_POLLS = 0.5
# A worker that received SIGTERM ends then at the latest, whatever it is in the middle of.
_GRACE_SECONDS = 120.0
# Ray's way to set up the process group of PyTorch; its static type is none that can be extended.
_TorchBackend: Any = TorchConfig().backend_cls


class _WorkerSignal:
    """Whether this process, as a worker, received SIGTERM."""

    received = False


def _listen_to_sigterm() -> None:
    """Runs on a worker's main thread, where alone signals can be listened to."""

    def receive(number: int, frame: FrameType | None) -> None:
        if not _WorkerSignal.received:
            _WorkerSignal.received = True
            last = threading.Timer(_GRACE_SECONDS, os._exit, [_SIGTERM_STATUS])
            last.daemon = True
            last.start()

    signal.signal(signal.SIGTERM, receive)


class _ListeningBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        machines = set(worker_group.execute(node_address))
        worker_group.execute(listen_on_little, one_machine=len(machines) == 1)
        open_store_with(open_store)
        super().on_start(worker_group, backend_config)

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_listen_to_sigterm)


class ListeningTorch(TorchConfig):
    """PyTorch's process group, on workers that a SIGTERM does not end at once.

    It listens on loopback where all workers are on one machine.
    """

    @property
    def backend_cls(self) -> type[_ListeningBackend]:
        return _ListeningBackend


class WorkerNotices:
    """What one worker is to do: go on, write a checkpoint, end.

    Args:
        stop_flag: From the command's `StopOnSignal`.
        rank: The worker's.
    """

    def __init__(self, stop_flag: str, rank: int) -> None:
        self._stop_flag, self._rank = stop_flag, rank
        self._polled = 0.0
        self._known: ray.train.PreemptionInfo | None = None

    def poll(self) -> Notice:
        """Returns what is new since the last call of `saved`."""
        now = time.monotonic()
        if self._rank == 0 and now - self._polled >= _SECONDS_BETWEEN_POLLS:
            self._polled = now
            if flag_is_set(self._stop_flag):
                return Notice.STOP
        if _WorkerSignal.received or preemption_info() != self._known:
            return Notice.SAVE
        return Notice.NOTHING

    def saved(self) -> None:
        """Ends this worker if it received SIGTERM; nodes that are drained are known now."""
        self._known = preemption_info()
        if _WorkerSignal.received:
            os._exit(_SIGTERM_STATUS)


class StopOnSignal:
    """While its context lasts, the first SIGTERM asks the workers to end; a second ends at once.

    It does nothing but in the main thread of a command: a trial or a compared run ends as Ray ends
    it.

    Attributes:
        flag: What the workers look for.
        received: Whether a signal came.
    """

    def __init__(self) -> None:
        self.flag = f"dynat-ray-stop-{uuid.uuid4().hex}"
        self.received = self._over = False
        self._wake = threading.Event()
        self._handler_before: Any = None
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    def __enter__(self) -> StopOnSignal:
        if is_command() and threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, self._receive)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handler_before is not None:
            signal.signal(signal.SIGTERM, self._handler_before)
            self._over = True
            self._wake.set()
            self._thread.join()
            remove_flag(self.flag)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise SystemExit(_SIGTERM_STATUS)
        self.received = True
        self._wake.set()

    def _pass_on(self) -> None:
        # A signal handler must not talk to Ray, which it may have interrupted.
        self._wake.wait()
        if not self._over:
            set_flag(self.flag)
