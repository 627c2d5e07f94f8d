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
from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.config import CpuKernels
from dynat_ray.data import LazySplit
from dynat_ray.distributed.capacity import has_gpus, require_places
from dynat_ray.distributed.cluster import require_everywhere
from dynat_ray.distributed.waiting_for_nodes import WaitingWords, nodes_may_come
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import in_fast_format, on_cpu
from dynat_ray.evaluation.images import Images
from dynat_ray.evaluation.shards import (
    FinishedShard,
    Shard,
    ShardOutcomes,
    evaluate_shard,
    samples_of,
)

# A worker that dies is started again, and its shard done again, this often.
_RESTARTS = 3


class ShardWorkers:
    """Ray workers that do the shards of one evaluation after the other, with a GPU or a CPU each.

    They start when there are shards, which takes seconds, and end with the context. Every worker
    takes the next shard from one queue when it has finished its last. A worker that is lost
    (killed, or its node gone) is replaced and its shard is done again; since a shard's outcome
    follows from its arguments alone, nothing shows.

    Args:
        count: How many, at least 1, of which no more start than there are shards.
        gpu: Whether they have GPUs; None: if the cluster has any, or may have.
        start_minutes: How long they wait for nodes that the cluster starts.
    """

    def __init__(
        self,
        count: int,
        gpu: bool | None = None,
        start_minutes: float = ClusterConfig.start_minutes,
    ) -> None:
        self._count, self._gpu, self._minutes = count, gpu, start_minutes
        self._actors: list[Any] = []

    def __enter__(self) -> ShardWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def run(
        self,
        model: nn.Module,
        images: Images,
        labels: Tensor,
        shards: Sequence[Shard],
        *,
        seed: int,
    ) -> Iterator[FinishedShard]:
        """Does shards.

        Args:
            model: Waits on the CPU meanwhile, so that workers have all of a GPU.
            images: All; what reads them reads a shard's where its worker is, from the same path.
            labels: int64 `(N,)`.
            shards: What to do.
            seed: Of the evaluation.

        Yields:
            Shards as they finish, in any order.

        Raises:
            UserError: The cluster has fewer CPUs or GPUs than there are to be workers; a shard's
                own error; a shard whose worker died every time.
        """
        if not shards:
            return
        self._start(len(shards), images)
        _carry_own_modules(model)
        with on_cpu(model):
            # What reads images goes with the model, once; of images each shard's own.
            lazy = (images, labels) if isinstance(images, LazySplit) else None
            shared = ray.put((model, lazy))
            waiting, running = deque(shards), {}

            def deal(actor: Any) -> None:
                shard = waiting.popleft()
                own = None if lazy else samples_of(shard, images, labels)
                answer = actor.evaluate.remote([shared], own, shard, seed, cpu_kernels_choice())
                running[answer] = actor, shard

            try:
                starting = self._starting(len(shards))
                while running or waiting:
                    (answer, *_), _ = ray.wait([*running, *starting], num_returns=1)
                    if answer in starting:
                        actor = starting.pop(answer)
                        if waiting:
                            deal(actor)
                        continue
                    actor, shard = running.pop(answer)
                    outcomes = _fetch(answer, shard)
                    # Before whoever takes the outcomes spends time on them.
                    if waiting:
                        deal(actor)
                    yield shard, outcomes
            finally:
                if running:  # Nobody takes what they are doing.
                    self._end()

    def _start(self, shards: int, images: Images) -> None:
        """Has a worker for each of so many shards, as far as there are to be workers."""
        self._gpu = gpu = has_gpus() if self._gpu is None else self._gpu
        require_places(self._count, 1, gpu)
        if isinstance(images, LazySplit) and not self._actors:
            require_everywhere([images.path])
        start = ray.remote(
            num_cpus=1,
            num_gpus=1 if gpu else 0,
            max_restarts=_RESTARTS,
            max_task_retries=_RESTARTS,
        )(_ShardWorker)
        more = min(self._count, shards) - len(self._actors)
        self._actors += [start.remote(gpu) for _ in range(more)]

    def _starting(self, most: int) -> dict[Any, Any]:
        """Returns the workers by what each answers when it is there, once one of them is.

        The others may wait for their node for minutes, or for ever.
        """
        starting = {actor.ready.remote(): actor for actor in self._actors[:most]}
        if nodes_may_come():
            words = WaitingWords(1, 1, bool(self._gpu), self._minutes)
            while not ray.wait(list(starting), num_returns=1, timeout=1)[0]:
                words.look()
            words.end()
        return starting

    def _end(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


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
    """Holds a model on one worker, and what reads its images.

    It comes with the first call and not when the actor is made: Ray could not start an actor again
    whose own arguments lie in the object store, and warns of it.

    Args:
        gpu: Whether it has one.
    """

    def __init__(self, gpu: bool) -> None:
        self._device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
        # Results depend in their last bits on how many threads share an operation.
        torch.set_num_threads(1)
        self._shared: tuple[nn.Module, tuple[LazySplit, Tensor] | None] | None = None
        self._stored: Any = None

    def ready(self) -> None:
        """Has been called once the worker is there."""

    def evaluate(
        self,
        stored: list[Any],
        own: tuple[Tensor, Tensor] | None,
        shard: Shard,
        seed: int,
        kernels: CpuKernels,
    ) -> ShardOutcomes:
        """Does a shard.

        Args:
            stored: Names what all shards share.
            own: Images and labels; None: this worker reads them.
            shard: What to do.
            seed: Of the evaluation.
            kernels: Whether it may take those for CPUs.
        """
        model, samples = self._loaded(stored[0])
        if own is None:
            assert samples is not None
            own = samples_of(shard, *samples)
        with cpu_kernels(kernels):
            return evaluate_shard(model, *own, shard, seed=seed)

    def _loaded(self, stored: Any) -> tuple[nn.Module, tuple[LazySplit, Tensor] | None]:
        """Returns what lies in the object store for all shards, which is fetched once."""
        if self._shared is None or stored != self._stored:
            self._shared = None
            try:
                model, samples = ray.get(stored)
            except RayError as error:
                reason = str(error).strip().splitlines()[-1]
                raise UserError(f"the model can't be loaded on a worker: {reason}") from error
            self._shared = in_fast_format(model.to(self._device)), samples
            self._stored = stored
        return self._shared
