"""The settings of `cluster`: where a run, search or comparison has its processes and files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynat_ray.section import Section
from dynat_ray.value_types import MinusOneOrMore, Positive, PositiveInt, WorkerRange, require


@dataclass(kw_only=True)
class ClusterConfig(Section, section="cluster"):
    """Where it runs.

    Attributes:
        workers: A number, an elastic range such as `1..4`, or `auto`: one per GPU, else two.
        gpu: One GPU per worker; `auto`: where the cluster has any.
        cpus_per_worker: CPU cores of a worker (its loader threads included).
        max_failures: Restarts after errors of the program before giving up; -1: without end.
        max_preemption_failures: Restarts after machines were lost; -1: without end.
        start_minutes: How long it waits for nodes that the cluster starts.
        storage: Where run folders go, instead of `--out`: a shared path or `s3://...`.
    """

    workers: PositiveInt | WorkerRange = "auto"
    gpu: bool | Literal["auto"] = "auto"
    cpus_per_worker: PositiveInt = 1
    max_failures: MinusOneOrMore = 3
    max_preemption_failures: MinusOneOrMore = -1
    start_minutes: Positive = 30.0
    storage: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.worker_range()

    def worker_range(self) -> tuple[int, int] | None:
        """Returns the smallest and largest number of workers; None for `auto`."""
        if self.workers == "auto":
            return None
        first, _, last = str(self.workers).partition("..")
        low, high = int(first), int(last or first)
        allowed = "a number, a range such as 1..4, or auto"
        require(1 <= low <= high, "cluster.workers", self.workers, allowed)
        return low, high
