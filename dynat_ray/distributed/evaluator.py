"""How every evaluation is done, of a command, a run, a comparison or a search.

A plan is cut into shards, those that a state file does not hold yet are done in this process or on
Ray workers, each is kept as soon as it is finished, and all are put together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dynat_ray.config import ClusterConfig
from dynat_ray.errors import UserError
from dynat_ray.evaluation.exact import on_cpu
from dynat_ray.evaluation.identity import Identity
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.progress_bar import progress_bar
from dynat_ray.evaluation.shards import FinishedShard, Shard, run_shards
from dynat_ray.evaluation.state_file import StateFile, open_state
from dynat_ray.storage.mirror import Mirror

# To an object store, where the evaluation's folder is kept in one.
_SECONDS_BETWEEN_PUSHES = 60


@dataclass(frozen=True)
class Workers:
    """Who does the shards.

    Attributes:
        count: How many share the work.
        on_ray: Whether they are Ray's; else it is this process.
        gpu: Whether Ray's have a GPU each; None: if the cluster has any.
    """

    count: int
    on_ray: bool
    gpu: bool | None = None


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
    """Returns Ray workers where there are GPUs to share, else this process.

    A cluster's one GPU may be another node's, so that it takes a Ray worker too.
    """
    if "RAY_ADDRESS" in os.environ:
        from dynat_ray.distributed.cluster import cluster_total

        gpus = int(cluster_total("GPU"))
        return Workers(max(1, gpus), on_ray=gpus > 0)
    gpus = torch.cuda.device_count()
    return Workers(max(1, gpus), on_ray=gpus > 1)


def cluster_workers(cluster: ClusterConfig, most: int) -> Workers:
    """Returns up to `most` Ray workers: fewer where the cluster has not as many GPUs, or CPUs.

    It may have fewer GPUs than the CPUs that trained, and nodes may have gone.

    Args:
        cluster: Says whether they may have GPUs, where there are any.
        most: How many share the work, at most.
    """
    from dynat_ray.distributed.cluster import cluster_total

    gpus = 0 if cluster.gpu is False else int(cluster_total("GPU"))
    count = max(1, min(most, gpus or int(cluster_total("CPU"))))
    return Workers(count, on_ray=True, gpu=gpus > 0)


@contextmanager
def evaluated(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    plan: EvaluationPlan,
    *,
    identity: Identity,
    state_path: Path,
    resume: bool,
    workers: Workers,
) -> Iterator[Evaluated]:
    """Evaluates a model; inside, nobody else can write to the same state.

    Args:
        model: On the device for this process.
        images: uint8 `(N, C, H, W)`, or float32 in [0, 1].
        labels: int64 `(N,)`.
        plan: What to measure on them.
        identity: What the outcomes follow from; a state of another one is not gone on with.
        state_path: File of finished shards.
        resume: Go on with what it holds, if there is any.
        workers: Who does the shards.

    Raises:
        UserError: As in `open_state` and `run_shards_on_ray`.
    """
    with open_state(state_path, identity, resume=resume) as state:
        finished: list[FinishedShard] = []

        def finish(shards: Sequence[Shard]) -> None:
            known, left = state.take_over(shards)
            finished.extend(known)
            with progress_bar(plan.samples, shards) as show:
                for shard, outcomes in known:
                    show(shard, outcomes)
                done = _execute(model, images, labels, left, plan.seed, workers)
                for shard, outcomes in _kept(done, state, state_path):
                    finished.append((shard, outcomes))
                    show(shard, outcomes)

        finish(plan.shards())
        finish(plan.second_round(finished))
        state.end()
        yield Evaluated(plan.outcomes(finished), plan.probed(finished), state.seconds)


def _execute(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    shards: Sequence[Shard],
    seed: int,
    workers: Workers,
) -> Iterator[FinishedShard]:
    if not shards:
        return
    if not workers.on_ray:
        with _one_thread():
            yield from run_shards(model, images, labels, shards, seed=seed)
        return
    # Ray takes seconds to import and to start, which one worker need not wait for.
    from dynat_ray.distributed.shard_workers import run_shards_on_ray

    with on_cpu(model):
        yield from run_shards_on_ray(
            model, images, labels, shards, seed=seed, workers=workers.count, gpu=workers.gpu
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """One CPU thread, as each of many workers has: results depend on it in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
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
