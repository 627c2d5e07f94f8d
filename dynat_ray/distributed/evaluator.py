"""How every evaluation is done, of a command, a run, a comparison or a search.

A plan is cut into shards, those that a state file does not hold yet are done in this process or on
Ray workers, each is kept as soon as it is finished, and all are put together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.errors import UserError
from dynat_ray.evaluation.identity import Identity
from dynat_ray.evaluation.images import Images
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.progress_bar import progress_bar
from dynat_ray.evaluation.shards import FinishedShard, Shard, run_shards
from dynat_ray.evaluation.state_file import StateFile, open_state
from dynat_ray.storage.mirror import Mirror

# To an object store, where the evaluation's folder is kept in one.
_SECONDS_BETWEEN_PUSHES = 60


class ShardRunner(Protocol):
    """Does shards and yields them as they finish, see `run_shards`."""

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Tensor,
        shards: Sequence[Shard],
        *,
        seed: int,
    ) -> Iterator[FinishedShard]: ...


@dataclass(frozen=True)
class Workers:
    """Who does the shards.

    Attributes:
        count: How many share the work.
        on_ray: Whether they are Ray's; else it is this process.
        gpu: Whether Ray's have a GPU each; None: if the cluster has any.
        start_minutes: How long they wait for nodes that the cluster starts.
    """

    count: int
    on_ray: bool
    gpu: bool | None = None
    start_minutes: float = ClusterConfig.start_minutes

    @contextmanager
    def ready(self) -> Iterator[ShardRunner]:
        """Gives what does shards, of one evaluation after the other.

        Ray workers start with the first shards, which takes seconds, and end with the context.
        """
        if not self.on_ray:
            yield _run_here
            return
        # Ray takes seconds to import and to start, which one worker need not wait for.
        from dynat_ray.distributed.shard_workers import ShardWorkers

        with ShardWorkers(self.count, self.gpu, self.start_minutes) as workers:
            yield workers.run


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        attacks: For each threat what each attack did.
        probes: What came out for each probe.
        seconds_before: How long earlier starts took for the shards that were kept.
    """

    attacks: AttackOutcomes
    probes: Mapping[str, Outcome]
    seconds_before: float


def default_workers() -> Workers:
    """Returns Ray workers where there are GPUs to share, or may come, else this process.

    A cluster's one GPU may be another node's, so that it takes a Ray worker too.
    """
    if "RAY_ADDRESS" in os.environ:
        from dynat_ray.distributed.capacity import has_gpus, places

        gpus = max(1, places(1, gpu=True)) if has_gpus() else 0
        return Workers(max(1, gpus), on_ray=gpus > 0)
    gpus = torch.cuda.device_count()
    return Workers(max(1, gpus), on_ray=gpus > 1)


def cluster_workers(cluster: ClusterConfig, most: int) -> Workers:
    """Returns who shares the work of a cluster: on GPUs where there are any.

    There are fewer than `most` where the cluster has fewer GPUs than the CPUs that trained, or
    nodes have gone. A single one without a GPU, on one machine, is this process: a Ray worker would
    have no more than it has, and start for seconds.

    Args:
        cluster: Says whether they may have GPUs, where there are any.
        most: How many share the work, at most.
    """
    from dynat_ray.distributed.capacity import places
    from dynat_ray.distributed.cluster import is_one_machine

    gpus = 0 if cluster.gpu is False else places(1, gpu=True)
    count = max(1, min(most, gpus or places(1, gpu=False)))
    alone = count == 1 and not gpus and is_one_machine()
    return Workers(count, on_ray=not alone, gpu=gpus > 0, start_minutes=cluster.start_minutes)


@contextmanager
def evaluated(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    plan: EvaluationPlan,
    *,
    identity: Identity,
    state_path: Path,
    resume: bool,
    workers: AbstractContextManager[ShardRunner],
) -> Iterator[Evaluated]:
    """Evaluates a model, for a caller that has the state's folder to itself (`storage.lease`).

    Args:
        model: On the device for this process.
        images: All.
        labels: int64 `(N,)`.
        plan: What to measure on them.
        identity: What the outcomes follow from; a state of another one is not gone on with.
        state_path: File of finished shards.
        resume: Go on with what it holds, if there is any.
        workers: Do the shards, and end when all are done: `Workers.ready`.

    Raises:
        UserError: As in `open_state` and `ShardWorkers.run`.
    """
    with open_state(state_path, identity, resume=resume) as state:
        finished: list[FinishedShard] = []

        def finish(shards: Sequence[Shard], run: ShardRunner) -> None:
            known, left = state.take_over(shards)
            finished.extend(known)
            with progress_bar(plan.samples, shards) as show:
                for shard, outcomes in known:
                    show(shard, outcomes)
                done = run(model, images, labels, left, seed=plan.seed)
                for shard, outcomes in _kept(done, state, state_path):
                    finished.append((shard, outcomes))
                    show(shard, outcomes)

        with workers as run:
            finish(plan.shards(), run)
            finish(plan.second_round(finished), run)
        state.end()
        yield Evaluated(plan.outcomes(finished), plan.probed(finished), state.seconds)


def _run_here(
    model: nn.Module, images: Images, labels: Tensor, shards: Sequence[Shard], *, seed: int
) -> Iterator[FinishedShard]:
    """Does shards on one CPU thread, as each of many workers: their last bits depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from run_shards(model, images, labels, shards, seed=seed)
    finally:
        torch.set_num_threads(threads)


def _kept(
    finished: Iterator[FinishedShard], state: StateFile, path: Path
) -> Iterator[FinishedShard]:
    """Writes every shard to the state at `path`, and now and then that to the object store."""
    mirror, pushed = Mirror.of(path.parent), time.monotonic()
    for shard, outcomes in finished:
        state.add(shard, outcomes)
        if mirror is not None and time.monotonic() - pushed > _SECONDS_BETWEEN_PUSHES:
            # The store may be back at the next one.
            with suppress(UserError):
                mirror.push(only=(path.name,))
            pushed = time.monotonic()
        yield shard, outcomes
