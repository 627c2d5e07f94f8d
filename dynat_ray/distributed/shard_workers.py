"""Deals the shards of an evaluation to Ray workers."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from torch import Tensor, nn

from dynat_ray.acceleration.switch import cpu_kernels, cpu_kernels_choice
from dynat_ray.config import CpuKernels
from dynat_ray.distributed.cluster import cluster_total
from dynat_ray.errors import UserError
from dynat_ray.evaluation.shards import (
    FinishedShard,
    Shard,
    ShardOutcomes,
    evaluate_shard,
    samples_of,
)

# A worker that dies is started again, and its shard done again, this often.
_RESTARTS = 3


def run_shards_on_ray(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    shards: Sequence[Shard],
    *,
    seed: int,
    workers: int,
    gpu: bool | None = None,
) -> Iterator[FinishedShard]:
    """Does shards on Ray workers, with a GPU or a CPU each.

    Every worker takes the next shard from one queue when it has finished its last. A worker that
    is lost (killed, or its node gone) is replaced and its shard is done again; since a shard's
    outcome follows from its arguments alone, nothing shows.

    Args:
        model: On the CPU.
        images: uint8 `(N, C, H, W)`, or float32 in [0, 1].
        labels: int64 `(N,)`.
        shards: What to do.
        seed: Of the evaluation.
        workers: How many, at least 1.
        gpu: Whether they have GPUs; None: if the cluster has any.

    Yields:
        Shards as they finish, in any order.

    Raises:
        UserError: The cluster has fewer CPUs or GPUs than `workers`; a shard's own error; a
            shard whose worker died every time.
    """
    if gpu is None:
        gpu = cluster_total("GPU") > 0
    _require_present(workers, gpu)
    _carry_own_modules(model)
    shared = ray.put(model)
    actors = _start_workers(min(workers, len(shards)), gpu)
    waiting, running = deque(shards), {}

    def deal(actor: Any) -> None:
        shard = waiting.popleft()
        own = samples_of(shard, images, labels)
        running[actor.evaluate.remote([shared], *own, shard, seed)] = actor, shard

    try:
        for actor in actors:
            deal(actor)
        while running:
            (answer, *_), _ = ray.wait(list(running), num_returns=1)
            actor, shard = running.pop(answer)
            outcomes = _fetch(answer, shard)
            # Before whoever takes the outcomes spends time on them.
            if waiting:
                deal(actor)
            yield shard, outcomes
    finally:
        for actor in actors:
            ray.kill(actor)


def _require_present(workers: int, gpu: bool) -> None:
    kind, present = ("GPUs", cluster_total("GPU")) if gpu else ("CPUs", cluster_total("CPU"))
    if workers > present:
        raise UserError(f"{workers} workers were asked for, but the cluster has {present:g} {kind}")


def _start_workers(count: int, gpu: bool) -> list[Any]:
    start = ray.remote(
        num_cpus=1,
        num_gpus=1 if gpu else 0,
        max_restarts=_RESTARTS,
        max_task_retries=_RESTARTS,
    )(_ShardWorker)
    return [start.remote(gpu, cpu_kernels_choice()) for _ in range(count)]


def _carry_own_modules(model: nn.Module) -> None:
    """Makes Ray send the code of classes in the working directory, which workers don't see."""
    here = Path.cwd()
    for name in {type(part).__module__ for part in model.modules()}:
        module = sys.modules[name]
        file = Path(getattr(module, "__file__", None) or sys.executable).resolve()
        own = file.is_relative_to(here) and "site-packages" not in file.parts
        if own and name.partition(".")[0] != "dynat_ray":
            ray.cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]


def _fetch(answer: Any, shard: Shard) -> ShardOutcomes:
    try:
        outcomes: ShardOutcomes = ray.get(answer)
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


class _ShardWorker:
    """Holds the model on one worker.

    The model comes with the first call and not when the actor is made: Ray could not start an
    actor again whose own arguments lie in the object store, and warns of it.

    Args:
        gpu: Whether it has one.
        cpu_kernels: What holds in the process that deals.
    """

    def __init__(self, gpu: bool, cpu_kernels: CpuKernels) -> None:
        self._cpu_kernels: CpuKernels = cpu_kernels
        self._device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
        # Results depend in their last bits on how many threads share an operation.
        torch.set_num_threads(1)
        self._model: nn.Module | None = None

    def evaluate(
        self,
        shared: list[Any],
        images: Tensor,
        labels: Tensor,
        shard: Shard,
        seed: int,
    ) -> ShardOutcomes:
        if self._model is None:
            try:
                model: nn.Module = ray.get(shared[0])
            except RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"the model can't be loaded on a worker: {reason}") from error
            self._model = model.to(self._device).to(memory_format=torch.channels_last)
        with cpu_kernels(self._cpu_kernels):
            return evaluate_shard(self._model, images, labels, shard, seed=seed)
