"""A training run through Ray Train: start the workers, follow them, collect what they say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from dynat_ray.distributed.cluster import (
    cluster_limit,
    cluster_total,
    connect,
    require_cluster,
    side_by_side,
)

# isort: split
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchTrainer

import dynat_ray.config as settings
from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.distributed.mirror_follower import Follower
from dynat_ray.distributed.notices import FlagDown, ListeningTorch
from dynat_ray.distributed.place_watch import PlaceWatch
from dynat_ray.distributed.progress import ProgressPrinter
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.stopping import until_stopped
from dynat_ray.distributed.training_end import TrainingEnd
from dynat_ray.distributed.worker import run_worker
from dynat_ray.errors import Stopped, UserError, disk_error
from dynat_ray.storage.checkpoint_names import CHECKPOINTS
from dynat_ray.storage.mirror import Mirror
from dynat_ray.training.device import KEEP_FREED_MEMORY
from dynat_ray.training.session import CHECKPOINTS_KEPT

# A run on fewer nodes than it may have looks for more this often; each change costs a restart.
_SECONDS_BETWEEN_RESIZES = 60.0
# Workers may wait for one another this long (validation of unequal parts, a slow disk).
_COLLECTIVE_TIMEOUT = 3600


class Workers(NamedTuple):
    """The workers of a run.

    Attributes:
        fewest: It starts with these.
        most: It grows to these, if it is elastic.
        gpu: Each has a GPU.
    """

    fewest: int
    most: int
    gpu: bool

    def facts(self) -> dict[str, str]:
        """Returns them in words, for people."""
        count = str(self.fewest) if self.fewest == self.most else f"{self.fewest} to {self.most}"
        return {"workers": count, "device": "cuda" if self.gpu else "cpu"}


def resolve_workers(cluster: ClusterConfig) -> Workers:
    """Returns how many workers a run has on this cluster, and whether each has a GPU.

    Raises:
        UserError: The cluster has fewer CPUs or GPUs.
    """
    # Where Ray starts nodes itself, none may be there yet.
    gpus = int(cluster_total("GPU") or cluster_limit("GPU"))
    gpu = gpus > 0 if cluster.gpu == "auto" else cluster.gpu
    wanted = cluster.worker_range()
    if wanted is None:
        by_cpu = min(2, int(cluster_total("CPU")) // cluster.cpus_per_worker)
        wanted = (gpus, gpus) if gpu else (max(1, by_cpu), max(1, by_cpu))
    # An elastic run starts with the workers that there are.
    require_cluster(wanted[0], cluster.cpus_per_worker, gpu)
    if side_by_side(wanted[0], cluster.cpus_per_worker, gpu) == 0:
        raise UserError(
            f"{wanted[0]} workers with {cluster.cpus_per_worker} CPUs each fit on no nodes of this "
            "cluster: a worker can't be spread over several; set cluster.workers or "
            "cluster.cpus_per_worker lower"
        )
    return Workers(*wanted, gpu)


def fit(
    config: settings.RunConfig,
    run_folder: Path,
    *,
    callbacks: Sequence[UserCallback] = (),
    quiet: bool = False,
    stop: StopFlag | None = None,
) -> None:
    """Trains `config` in `run_folder`, which holds its `config.yaml`, printing a line per epoch.

    Args:
        config: The run.
        run_folder: Its folder; where that stands for a place in a store, the workers write there.
        callbacks: Ray Train calls them after every epoch.
        quiet: Print nothing.
        stop: Of the command that this training is a part of; None: it is the command.

    Raises:
        UserError: What the user can correct; what a worker said of it.
        Stopped: The command received a signal, and a checkpoint is written.
    """
    connect()
    workers = resolve_workers(config.cluster)
    config.smallest_share(workers.most)
    mirror = Mirror.of(run_folder)
    if mirror is not None:
        mirror.push()
    stop = stop or StopFlag()
    own = stop.of_training()
    trainer = TorchTrainer(
        # Ray's static types are those of its older API.
        run_worker,  # type: ignore[arg-type]
        train_loop_config={
            "run_folder": str(run_folder),
            "address": "" if mirror is None else mirror.address,
            "stop_flag": own.name,
            "training": own.training,
        },
        torch_config=ListeningTorch(timeout_s=_COLLECTIVE_TIMEOUT),
        scaling_config=_scaling(config.cluster, workers),
        run_config=_train_options(
            config.cluster, workers, run_folder, mirror, [*callbacks, FlagDown(own)]
        ),
    )
    places = PlaceWatch(own, workers.fewest, config.cluster.cpus_per_worker, workers.gpu)
    with (
        places,
        # It ends last, when everything is here.
        nullcontext() if quiet else ProgressPrinter(run_folder, config),
        nullcontext() if mirror is None else Follower(mirror),
    ):
        end = until_stopped(lambda: _run(trainer), stop, lambda: places.hopeless)
    if end.error:
        raise UserError(end.error)
    if end.stopped:
        raise Stopped("a checkpoint is written")


def _scaling(cluster: ClusterConfig, workers: Workers) -> ScalingConfig:
    """Returns how many workers there are to be, and what each of them takes."""
    fewest, most, gpu = workers
    return ScalingConfig(
        num_workers=fewest if fewest == most else (fewest, most),  # type: ignore[arg-type]
        use_gpu=gpu,
        resources_per_worker={"CPU": float(cluster.cpus_per_worker)}
        | ({"GPU": 1.0} if gpu else {}),
        elastic_resize_monitor_interval_s=_SECONDS_BETWEEN_RESIZES,  # type: ignore[call-arg]
    )


def _train_options(
    cluster: ClusterConfig,
    workers: Workers,
    run_folder: Path,
    mirror: Mirror | None,
    callbacks: Sequence[UserCallback],
) -> RunConfig:
    """Returns where Ray Train keeps checkpoints, how often it starts again, what it logs."""
    storage, storage_path = (None, str(run_folder)) if mirror is None else mirror.train_storage()
    variables = {"OMP_NUM_THREADS": str(cluster.cpus_per_worker)}
    return RunConfig(  # type: ignore[call-arg]
        name=CHECKPOINTS,
        storage_path=storage_path,
        storage_filesystem=storage,
        failure_config=FailureConfig(max_failures=cluster.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
        callbacks=list(callbacks),  # type: ignore[arg-type]
        logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        worker_runtime_env={"env_vars": variables | ({} if workers.gpu else KEEP_FREED_MEMORY)},
    )


def _run(trainer: TorchTrainer) -> TrainingEnd:
    """Returns how the training ended; raises what a worker raised."""
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        for rank, failure in sorted(failures.items()):
            raise _as_user_error(rank, failure) from error
        raise
    return result.return_value or TrainingEnd()  # type: ignore[attr-defined]


def _as_user_error(rank: int, failure: Exception) -> Exception:
    """Returns what a worker raised: the user's mistake as such, anything else with its rank."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OSError) and (full := disk_error(cause)):
            return full
        cause = getattr(cause, "cause", None) or cause.__cause__
    return RuntimeError(f"worker {rank} failed: {failure}")
