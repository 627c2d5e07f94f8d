"""Writes checkpoints while training goes on."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dynat_ray.training.agreement import on_all_workers
from dynat_ray.training.checkpoint import write_checkpoint
from dynat_ray.training.session import Session


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

    All workers call all methods but `busy` and `close` alike; only the first one's writes.

    Args:
        session: Who keeps the checkpoints.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._begun: _Begun | None = None

    @property
    def busy(self) -> bool:
        """Whether this worker is writing."""
        return self._begun is not None and not self._begun.written.done()

    def begin(self, metrics: Mapping[str, Any], name: str, state: dict[str, Any]) -> None:
        """Begins to write `state` as it is now, after handing over what was begun before.

        Args:
            metrics: To report when it is handed over.
            name: Of the checkpoint.
            state: Tensors and plain values; the tensors may change as soon as this returns.

        Raises:
            SharedUserError: The disk is full or read-only.
        """
        self.hand_over()
        folder, written = None, Future[bool]()
        if self._session.rank == 0:
            folder = Path(tempfile.mkdtemp(dir=self._session.scratch_folder))
            written = self._pool.submit(_write, folder, _copy_to_cpu(state))
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

    def close(self) -> None:
        """Ends the thread; a checkpoint that was not handed over is dropped."""
        self._pool.shutdown()
        if self._begun is not None and self._begun.folder is not None:
            shutil.rmtree(self._begun.folder, ignore_errors=True)


def _write(folder: Path, state: dict[str, Any]) -> bool:
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
