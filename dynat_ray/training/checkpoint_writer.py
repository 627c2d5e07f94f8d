"""Writes checkpoints, when they are due or asked for, while training goes on."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynat_ray.atomic_files import unused_name
from dynat_ray.collectives import max_over_workers
from dynat_ray.training.agreement import on_all_workers
from dynat_ray.training.checkpoint import CheckpointClock, write_checkpoint
from dynat_ray.training.session import Notice, Session, StopRequested


@dataclass(frozen=True)
class _Begun:
    """A checkpoint that is not handed over yet.

    Attributes:
        metrics: What is reported with it.
        name: Its own.
        folder: Where the first worker writes it; None on the others.
        written: Done when it is.
    """

    metrics: Mapping[str, Any]
    name: str
    folder: Path | None
    written: Future[bool]


class CheckpointWriter:
    """Puts one checkpoint at a time together on a thread, and hands it to the session.

    All workers call all methods but `close` alike; only the first one's writes.

    Args:
        session: Who keeps the checkpoints.
        minutes: Between two of them, see `CheckpointClock`.
    """

    def __init__(self, session: Session, minutes: float = 0.0) -> None:
        self._session = session
        self._clock = CheckpointClock(minutes, session.device)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._begun: _Begun | None = None

    def look(self, *, at_once: bool = False) -> Notice:
        """Returns whether a checkpoint is to be begun; every worker must ask after every step.

        If what was begun before is written, it is handed over.

        Args:
            at_once: Look now; else now and then, since workers have to agree.

        Raises:
            SharedUserError: The disk is full or read-only.
        """
        busy = self._begun is not None and not self._begun.written.done()
        notice, all_idle = self._clock.agree(self._session.notice, busy, at_once=at_once)
        if all_idle:
            self.hand_over()
        return notice

    def begin(
        self,
        metrics: Mapping[str, Any],
        name: str,
        state: dict[str, Any],
        *,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins to write `state` as it is now, after handing over what was begun before.

        Args:
            metrics: To report when it is handed over.
            name: Of the checkpoint.
            state: Tensors and plain values; the tensors may change as soon as this returns.
            after: Returns when what comes before the checkpoint is written elsewhere; what it
                raises is raised when the checkpoint would be handed over.

        Raises:
            SharedUserError: The disk is full or read-only.
        """
        self.hand_over()
        self._clock.restart()
        folder, written = None, Future[bool]()
        if self._session.rank == 0:
            folder = unused_name(self._session.scratch_folder)
            folder.mkdir(mode=0o700)
            written = self._pool.submit(_write, folder, _copy_to_cpu(state), after)
        else:
            written.set_result(True)
        self._begun = _Begun(metrics, name, folder, written)

    def hand_over(self, *, wait: bool = False) -> None:
        """Waits for the checkpoint that was begun, if there is one, and hands it to the session.

        Args:
            wait: Return only when the session has it in its place.

        Raises:
            SharedUserError: The disk is full or read-only.
        """
        if self._begun is None:
            return
        on_all_workers(self._begun.written.result)
        begun, self._begun = self._begun, None
        self._session.report(begun.metrics, begun.name, begun.folder, wait=wait)
        if wait:
            # Only the first worker has something to wait for, and the others wait for it here.
            max_over_workers(torch.zeros(1, device=self._session.device))

    def comply(self, notice: Notice) -> None:
        """Does what `notice` asks for once its checkpoint is begun: waits for it, ends the run.

        Raises:
            StopRequested: The run is to end.
            SharedUserError: The disk is full or read-only.
        """
        if notice in (Notice.SAVE, Notice.STOP):
            self.hand_over(wait=True)
            self._session.saved()
        if notice == Notice.STOP:
            raise StopRequested

    def close(self) -> None:
        """Ends the thread; a checkpoint that was not handed over is dropped."""
        self._pool.shutdown()
        if self._begun is not None and self._begun.folder is not None:
            shutil.rmtree(self._begun.folder, ignore_errors=True)


def _write(folder: Path, state: dict[str, Any], after: Callable[[], None]) -> bool:
    after()
    write_checkpoint(folder, state)
    return True


def _copy_to_cpu(value: Any) -> Any:
    """Returns nested dicts and lists with copies of their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, list):
        return [_copy_to_cpu(each) for each in value]
    if isinstance(value, dict):
        # A copy, and not a new dict: a module's state has the versions of its parts beside it.
        copied = copy.copy(value)
        copied.update({key: _copy_to_cpu(each) for key, each in value.items()})
        return copied
    return value
