"""Tells a run's trackers of its epochs while workers write them."""

from __future__ import annotations

from types import TracebackType

from dynat_ray.distributed.polling import Poller
from dynat_ray.errors import Stopped
from dynat_ray.tracking.feed import Trackers

_SECONDS_BETWEEN_POLLS = 2.0


class TrackerFollower(Poller):
    """Feeds trackers while its context lasts; where that ends with an error, they are told so.

    Args:
        trackers: Of the run.
    """

    def __init__(self, trackers: Trackers) -> None:
        super().__init__(_SECONDS_BETWEEN_POLLS)
        self._trackers = trackers

    def poll(self) -> None:
        self._trackers.catch_up()

    def poll_last(self) -> None:
        """What is left is sent by who ends the run."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None:
            stopped = issubclass(kind, (Stopped, KeyboardInterrupt))
            self._trackers.end("stopped" if stopped else "failed")
