"""Deals the shards of an evaluation to Ray workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor, nn

from dynat_ray.attacks.outcomes import FinishedShard
from dynat_ray.attacks.shards import Shard, ShardOutcome, evaluate_shard
from dynat_ray.config import Norm
from dynat_ray.distributed.session import cluster_total
from dynat_ray.errors import UserError

# A worker that dies is started again, and its shard done again, this often.
_RESTARTS = 10


def run_shards_on_ray(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    shards: Sequence[Shard],
    *,
    norm: Norm,
    seed: int,
    workers: int,
) -> Iterator[FinishedShard]:
    """Does shards on Ray workers, a GPU each where the cluster has any, else a CPU each.

    Every worker takes the next shard from one queue when it has finished its last. A worker that
    is lost (killed, or its node gone) is replaced and its shard is done again; since a shard's
    outcome follows from its arguments alone, nothing shows.

    Args:
        model: On the CPU.
        images: float32 `(N, C, H, W)` in [0, 1].
        labels: int64 `(N,)`.
        shards: What to do.
        norm: `Linf` or `L2`.
        seed: Of the evaluation.
        workers: How many, at least 1.

    Yields:
        Shards as they finish, in any order.

    Raises:
        UserError: The cluster has fewer CPUs or GPUs than `workers`; a shard's own error; a
            shard whose worker died every time.
    """
    gpus = cluster_total("GPU")
    kind, present = ("GPUs", gpus) if gpus else ("CPUs", cluster_total("CPU"))
    if workers > present:
        raise UserError(f"{workers} workers were asked for, but the cluster has {present:g} {kind}")
    shared = ray.put(model)
    start = ray.remote(
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )(_Evaluator)
    actors: list[Any] = [start.remote() for _ in range(min(workers, len(shards)))]
    waiting, running = deque(shards), {}

    def deal(actor: Any) -> None:
        shard = waiting.popleft()
        positions = torch.from_numpy(shard.positions)
        answer = actor.evaluate.remote(
            [shared], images[positions], labels[positions], shard, norm, seed
        )
        running[answer] = (actor, shard)

    try:
        for actor in actors:
            deal(actor)
        while running:
            (answer, *_), _ = ray.wait(list(running), num_returns=1)
            actor, shard = running.pop(answer)
            outcomes = _fetch(answer, shard)
            if waiting:
                deal(actor)
            yield shard, outcomes
    finally:
        for actor in actors:
            ray.kill(actor)


def _fetch(answer: Any, shard: Shard) -> dict[str, ShardOutcome]:
    try:
        outcomes: dict[str, ShardOutcome] = ray.get(answer)
    except RayActorError as error:
        raise UserError(
            f"the worker of shard {shard.number} died {_RESTARTS + 1} times, perhaps for want of "
            "memory; try a smaller --batch-size, then go on with --resume"
        ) from error
    except RayTaskError as error:
        # What a worker raises arrives wrapped in its traceback.
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    return outcomes


class _Evaluator:
    """Holds the model on one worker.

    The model comes with the first call and not when the actor is made: Ray could not start an
    actor again whose own arguments lie in the object store, and warns of it.
    """

    def __init__(self) -> None:
        # Results depend in their last bits on how many threads share an operation.
        torch.set_num_threads(1)
        self._model: nn.Module | None = None

    def evaluate(
        self,
        shared: list[Any],
        images: Tensor,
        labels: Tensor,
        shard: Shard,
        norm: Norm,
        seed: int,
    ) -> dict[str, ShardOutcome]:
        if self._model is None:
            model: nn.Module = ray.get(shared[0])
            self._model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        return evaluate_shard(self._model, images, labels, shard, norm=norm, seed=seed)
