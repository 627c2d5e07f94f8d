"""Validation beside training: a process of its own, with a GPU of its own where workers have one.

Ray Train's asynchronous validation needs a checkpoint for each epoch that is validated, puts what
goes wrong into a log, and waits for its place without an end; so this is an actor of ours.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

# isort: split
import ray
import torch
from torch import Tensor

from dynat_ray.config import RunConfig
from dynat_ray.training.fetching import fetch_here
from dynat_ray.training.validation import ValidationAccuracy
from dynat_ray.training.validator import Validator

_ANEW_WITHOUT_BOUND = -1


class ValidationPlace:
    """Validates one epoch's weights after the other, on resources like a worker's.

    It ends with the worker that made it. Where its machine is lost, Ray starts it elsewhere and
    gives it the same weights again.

    Args:
        config: The run.
        gpu: Workers have a GPU each.
    """

    def __init__(self, config: RunConfig, *, gpu: bool) -> None:
        self._cluster, self._gpu = config.cluster, gpu
        self._actor: Any = _Actor.options(  # type: ignore[attr-defined]
            num_cpus=config.cluster.cpus_per_worker,
            num_gpus=int(gpu),
            max_restarts=_ANEW_WITHOUT_BOUND,
            max_task_retries=_ANEW_WITHOUT_BOUND,
            # Not on what the workers hold.
            scheduling_strategy="DEFAULT",
        ).remote(config)
        self._probe = self._actor.is_there.remote()
        self._heard = time.monotonic()

    def begin(self, weights: dict[str, Tensor]) -> Future[ValidationAccuracy]:
        """Begins to validate `weights`, after whatever was begun before."""
        done: Future[ValidationAccuracy] = self._actor.validate.remote(weights).future()
        return done

    def problem(self) -> str:
        """Returns that it had no place for `cluster.start_minutes`; empty: it has, or may have one.

        Also after its machine was lost, when it needs another.
        """
        now, minutes = time.monotonic(), self._cluster.start_minutes
        if ray.wait([self._probe], timeout=0)[0]:
            self._heard, self._probe = now, self._actor.is_there.remote()
        if now - self._heard < 60 * minutes:
            return ""
        what = f"{self._cluster.cpus_per_worker} CPUs" + " and a GPU" * self._gpu
        return (
            f"no machine had {what} free for validation in {minutes:g} minutes "
            "(cluster.start_minutes): go on with --eval.beside false or fewer --cluster.workers, "
            "and --resume"
        )


@ray.remote(concurrency_groups={"probes": 1})  # type: ignore[call-overload]
class _Actor:
    """Builds what it needs with the first weights, and answers meanwhile that it is there."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._validator: Validator | None = None

    @ray.method(concurrency_group="probes")
    def is_there(self) -> bool:
        return True

    def validate(self, weights: dict[str, Tensor]) -> ValidationAccuracy:
        # Ray may call this from any thread, and the number is that of the thread.
        torch.set_num_threads(self._config.cluster.cpus_per_worker)
        if self._validator is None:
            fetch_here(self._config.data, print)
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._validator = Validator(self._config, device)
        return self._validator.validate(weights)
