"""Waiting for nodes that Ray starts, or that other work still takes: with words, and not for ever.

Ray Train waits by itself, but without a word and without an end.
"""

from __future__ import annotations

import math
import time

from dynat_ray.distributed.capacity import may_grow
from dynat_ray.distributed.cluster import is_one_machine

# isort: split
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from dynat_ray.durations import describe_seconds
from dynat_ray.errors import UserError

_SECONDS_WITHOUT_WORDS = 5.0
_SECONDS_BETWEEN_LINES = 300.0
_SECONDS_BETWEEN_LOOKS = 1.0


def wait_for_nodes(
    workers: int,
    cpus_per_worker: int,
    gpu: bool,
    *,
    minutes: float,
) -> None:
    """Waits until the cluster has room for workers; Ray hears what for, and starts nodes.

    Args:
        workers: That are to start.
        cpus_per_worker: CPU cores each.
        gpu: A GPU each.
        minutes: How long, at most; `inf`: for ever.

    Raises:
        UserError: It took longer.
    """
    if not nodes_may_come():
        return
    bundle = {"CPU": float(cpus_per_worker)} | ({"GPU": 1.0} if gpu else {})
    group = placement_group([bundle] * workers)
    words = WaitingWords(workers, cpus_per_worker, gpu, minutes)
    try:
        while not group.wait(_SECONDS_BETWEEN_LOOKS):
            words.look()
    finally:
        remove_placement_group(group)
    words.end()


def nodes_may_come() -> bool:
    """Returns whether there is anything to wait for: more machines than this one, now or later."""
    return may_grow() or not is_one_machine()


class WaitingWords:
    """What is said while nodes are waited for: soon after it began, then now and then.

    Args:
        workers: That are to start.
        cpus_per_worker: CPU cores each.
        gpu: A GPU each.
        minutes: How long, at most; `inf`: for ever.
    """

    def __init__(self, workers: int, cpus_per_worker: int, gpu: bool, minutes: float) -> None:
        kind = "GPU" if gpu else "CPU"
        self._what = (
            f"nodes with room for {workers} {kind} worker{'s' * (workers > 1)} of "
            f"{cpus_per_worker} CPU{'s' * (cpus_per_worker > 1)}"
        )
        self._minutes = minutes
        self._since = time.strftime("%H:%M:%S")
        self._began = time.monotonic()
        self._next = self._began + _SECONDS_WITHOUT_WORDS
        self._said = False

    def look(self) -> None:
        """Says what is waited for, if it is time to.

        Raises:
            UserError: It has been too long.
        """
        now = time.monotonic()
        if now - self._began > 60 * self._minutes:
            raise UserError(
                f"waited {self._minutes:g} minutes (cluster.start_minutes) for {self._what}; "
                f"there are {_present()}. `ray status` on the head says why no more have come"
            )
        if now >= self._next:
            self._said, self._next = True, now + _SECONDS_BETWEEN_LINES
            end = "" if math.isinf(self._minutes) else f", at most {self._minutes:g} minutes"
            print(
                f"waiting   since {self._since} for {self._what}{end}; there are {_present()}",
                flush=True,
            )

    def end(self) -> None:
        """Says that the wait is over, if it was said that there is one."""
        if self._said:
            print(f"waited    {describe_seconds(time.monotonic() - self._began)}", flush=True)


def _present() -> str:
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}s" for kind in ("GPU", "CPU")]
    return f"{' and '.join(parts)} free"
