"""How a run hears that it is to end, or that a machine goes: SIGTERM and Ray's drained nodes.

The command that is told to end (`ray job stop`, Slurm, `kill`) leaves word with Ray, where the
first worker looks for it. A worker that is told itself, or whose node Ray drains, asks for a
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

import ray
import ray.train.v2._internal.execution.context as train_context
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_exists,
    _internal_kv_put,
)
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from dynat_ray.training.session import Notice

_TOLD = 143  # What a shell calls the exit of a process that SIGTERM ended.
_SECONDS_BETWEEN_LOOKS = 0.5
# A worker that was told to end does so then at the latest, whatever it is in the middle of.
_GRACE_SECONDS = 120.0


class _Worker:
    """What this process, as a worker, was told."""

    told = False


def _listen() -> None:
    """Runs on a worker's main thread, where alone signals can be listened to."""

    def take_in(number: int, frame: FrameType | None) -> None:
        if not _Worker.told:
            _Worker.told = True
            last = threading.Timer(_GRACE_SECONDS, os._exit, [_TOLD])
            last.daemon = True
            last.start()

    signal.signal(signal.SIGTERM, take_in)


class _ListeningBackend(_TorchBackend):
    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(_listen)


class ListeningTorch(TorchConfig):
    """PyTorch's process group, on workers that a SIGTERM does not end at once."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _ListeningBackend


class WorkerNotices:
    """What one worker is told.

    Args:
        key: From the command's `StopOnSignal`.
        rank: The worker's.
    """

    def __init__(self, key: str, rank: int) -> None:
        self._key, self._rank = key, rank
        self._looked = 0.0
        self._drained: Any = None

    def look(self) -> Notice:
        """Returns what is new since the last call of `saved`."""
        now = time.monotonic()
        if self._rank == 0 and now - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            if _internal_kv_exists(self._key):
                return Notice.STOP
        if _Worker.told or self._draining() != self._drained:
            return Notice.SAVE
        return Notice.NOTHING

    def saved(self) -> None:
        """Ends this worker if it was told to; nodes that are drained are known now."""
        self._drained = self._draining()
        if _Worker.told:
            os._exit(_TOLD)

    def _draining(self) -> Any:
        # `ray.train.get_preemption_info` says the same after waiting for all workers.
        return train_context.get_train_context().preemption_context.preemption_info


class StopOnSignal:
    """While its context lasts, the first SIGTERM asks the workers to end; a second ends at once.

    It does nothing but in the main thread of a command: a trial or a compared run ends as Ray ends
    it.

    Attributes:
        key: Where the workers look.
        told: Whether a signal came.
    """

    def __init__(self) -> None:
        self.key = f"dynat-ray-stop-{uuid.uuid4().hex}"
        self.told = self._over = False
        self._wake = threading.Event()
        self._before: Any = None
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    def __enter__(self) -> StopOnSignal:
        is_command = ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE
        if is_command and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._take_in)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._over = True
            self._wake.set()
            self._thread.join()
            _internal_kv_del(self.key)

    def _take_in(self, number: int, frame: FrameType | None) -> None:
        if self.told:
            raise SystemExit(_TOLD)
        self.told = True
        self._wake.set()

    def _pass_on(self) -> None:
        # A signal handler must not talk to Ray, which it may have interrupted.
        self._wake.wait()
        if not self._over:
            _internal_kv_put(self.key, b"1")
