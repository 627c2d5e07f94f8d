"""Waiting for Ray so that a signal ends a command in seconds, with what its trainings have to save.

Whatever waits for Ray does so on a thread of its own, where Ray can't take the signals of the
command over; the main thread looks for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from dynat_ray import interrupt
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.errors import Stopped, UserError

Result = TypeVar("Result")
_SECONDS_BETWEEN_LOOKS = 0.1
# In which a training begins to save: its longest step is shorter.
_SECONDS_TO_HEAR = 8.0
# In which it has saved, also to a store; its workers may have died in the middle of it.
_SECONDS_TO_SAVE = 600.0


def until_stopped(
    work: Callable[[], Result], flag: StopFlag, hopeless: Callable[[], str] = str
) -> Result:
    """Returns what `work` returns, or raises what it raises.

    Args:
        work: It waits for trainings; a signal leaves it behind.
        flag: What they look for.
        hopeless: Says why it can wait no longer; empty: it can.

    Raises:
        Stopped: A signal came, and the trainings have saved what they had.
        UserError: What `hopeless` says.
    """
    waiting = _Waiting(work)
    with interrupt.graceful():
        waiting.start()
        while waiting.is_alive() and not interrupt.received():
            waiting.join(_SECONDS_BETWEEN_LOOKS)
            if reason := hopeless():
                raise UserError(reason)
        saved = _save(flag) if interrupt.received() else 0
        if interrupt.is_command():
            flag.remove()
    if interrupt.received():
        raise Stopped("" if saved == 0 else "a checkpoint is written")
    return waiting.result()


def _save(flag: StopFlag) -> int:
    """Asks all trainings to save and end; returns how many have."""
    flag.set()
    asked = time.monotonic()
    while True:
        deaf, saving, saved = flag.left()
        waited = time.monotonic() - asked
        if saving and waited < _SECONDS_TO_SAVE:
            interrupt.take_your_time()
        elif not deaf or waited > _SECONDS_TO_HEAR:
            return saved
        time.sleep(_SECONDS_BETWEEN_LOOKS)


class _Waiting(threading.Thread, Generic[Result]):
    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error

    def result(self) -> Result:
        if self._error is not None:
            raise self._error
        return self._results[0]
