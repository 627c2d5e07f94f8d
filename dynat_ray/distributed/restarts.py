"""Whether a training that failed starts again: machines come and go, errors of the program repeat.

Ray Train counts a machine that goes without notice as an error of the program. So it is told to
restart nothing itself.
"""

from __future__ import annotations

from typing import Any

from dynat_ray.distributed.cluster import living_nodes

# isort: split
import ray.train
from ray.exceptions import RayActorError

from dynat_ray.cluster_config import ClusterConfig

_DIED = "died, perhaps for want of memory"


class Restarts:
    """Counts the restarts of one run, errors and lost machines apart.

    Args:
        limits: Of the run.
    """

    def __init__(self, limits: ClusterConfig) -> None:
        self._limits = limits
        self._errors = self._machines = 0
        self._nodes = living_nodes()

    def allow(self, failure: Exception) -> str:
        """Returns a sentence on why the training starts again; empty: it may not.

        Args:
            failure: What ended the training.
        """
        before, self._nodes = self._nodes, living_nodes()
        gone = sorted(before[node] for node in before.keys() - self._nodes.keys())
        if gone or _is_preemption(failure):
            self._machines += 1
            what = f"machine {', '.join(gone)} was lost" if gone else "a machine goes"
            return _sentence(what, self._machines, self._limits.max_preemption_failures)
        what = death(failure)
        if not what and not isinstance(failure, ray.train.WorkerGroupError):
            return ""  # Ray's own: what can be tried again, it has.
        self._errors += 1
        return _sentence(what or _first_error(failure), self._errors, self._limits.max_failures)


def death(failure: Exception) -> str:
    """Returns which process of a training has died, in words; empty: none.

    Where one dies, the others only follow.
    """
    if isinstance(failure, RayActorError):
        return f"the process that led the training {_DIED}"
    deaths = _deaths(failure)
    return f"the process of worker {min(deaths)} {_DIED}" if deaths else ""


def _is_preemption(failure: Exception) -> bool:
    """Returns whether Ray was told that a machine of the training goes."""
    return isinstance(failure, ray.train.PreemptionError) or any(
        error.preempted for error in _deaths(failure).values()
    )


def _deaths(failure: Exception) -> dict[int, RayActorError]:
    """Returns, by rank, the workers whose process died."""
    failures: dict[int, Exception] = getattr(failure, "worker_failures", {})
    # Ray Train finds most of them when it asks a worker how it is.
    found = {
        rank: getattr(error, "health_check_failure", error) for rank, error in failures.items()
    }
    return {rank: error for rank, error in found.items() if isinstance(error, RayActorError)}


def _first_error(failure: Any) -> str:
    rank = min(failure.worker_failures)
    last_line = str(failure.worker_failures[rank]).strip().splitlines()[-1].strip()
    return f"worker {rank} failed: {last_line}"


def _sentence(cause: str, count: int, limit: int) -> str:
    if limit != -1 and count > limit:
        return ""
    most = "" if limit == -1 else f" of at most {limit}"
    return f"{cause}; restart {count}{most}, from the last checkpoint"
