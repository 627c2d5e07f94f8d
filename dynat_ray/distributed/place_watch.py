"""Why the workers of a training do not start, which Ray Train keeps to itself.

It asks for them again and again, also where they can never be placed.
"""

from __future__ import annotations

import sys
import time

from dynat_ray.distributed.cluster import cluster_limit, side_by_side
from dynat_ray.distributed.polling import Poller
from dynat_ray.distributed.stop_flag import StopFlag

_SECONDS_BETWEEN_LOOKS = 5.0
# Workers take half a minute to start, a node that Ray orders some minutes.
_SECONDS_TO_START = 90.0
_SECONDS_BETWEEN_WORDS = 300.0
_SECONDS_WITHOUT_PLACE = 900.0


class PlaceWatch(Poller):
    """Says why workers do not start, while its context lasts.

    Args:
        training: The flag of their training, which is up when they have started.
        workers: How many it needs at least.
        cpus: Each takes.
        gpu: Each takes one.

    Attributes:
        hopeless: Why they never will; empty: they may.
    """

    def __init__(self, training: StopFlag, workers: int, cpus: int, gpu: bool) -> None:
        super().__init__(_SECONDS_BETWEEN_LOOKS)
        self._training, self._needs = training, (workers, cpus, gpu)
        self._since = self._had_place = time.monotonic()
        self._said = 0.0
        self.hopeless = ""

    def poll(self) -> None:
        """Looks whether they have started, and whether they ever can."""
        now = time.monotonic()
        if self._training.is_up():
            self._since = self._had_place = now
            self.hopeless = ""
            return
        workers, cpus, gpu = self._needs
        kind = "GPUs" if gpu else "CPUs"
        have = cluster_limit("GPU" if gpu else "CPU")
        fits = side_by_side(workers, cpus, gpu) > 0
        if fits:
            self._had_place = now
        elif now - self._had_place > _SECONDS_WITHOUT_PLACE:
            self.hopeless = (
                f"{workers} workers have found no place for {_SECONDS_WITHOUT_PLACE / 60:g} "
                f"minutes: the cluster has {have:g} {kind} now; set cluster.workers lower (or to a "
                "range, such as 1..4), or wait for the nodes to come back, and go on with --resume"
            )
        if now - self._since > _SECONDS_TO_START and now - self._said > _SECONDS_BETWEEN_WORDS:
            self._said = now
            why = (
                f"others use the cluster's {kind}, or its machines are slow"
                if fits
                else f"the cluster has {have:g} {kind} now"
            )
            print(f"waiting for {workers} workers to start: {why}", file=sys.stderr, flush=True)

    def poll_last(self) -> None:
        """Nothing is left to say."""
