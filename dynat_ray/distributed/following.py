"""Keeps the command's copy of a run up to date while workers write to a store."""

from __future__ import annotations

import threading
from types import TracebackType

from dynat_ray.distributed.progress import NOTES
from dynat_ray.errors import UserError
from dynat_ray.training.mirror import Mirror

_SECONDS_BETWEEN_LOOKS = 2.0
_METRICS = "metrics.jsonl"


class Follower:
    """Fetches new metrics and notes while its context lasts, and everything when it ends.

    Args:
        mirror: Of the run's folder.
    """

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._mirror.pull()

    def _follow(self) -> None:
        while not self._done.wait(_SECONDS_BETWEEN_LOOKS):
            try:
                self._mirror.pull(only=(_METRICS, NOTES))
            except UserError:
                # The workers will say what is wrong, if it lasts.
                continue
