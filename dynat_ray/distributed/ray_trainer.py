"""A training run through Ray Train: start the workers, follow them, collect what they say.

Neither the process that does so nor Ray Train's controller needs PyTorch, whose memory the head
would need for each run: only workers import it.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dynat_ray.distributed.capacity import has_gpus, places, require_places
from dynat_ray.distributed.cluster import connect

# isort: split
import ray.train
from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback

import dynat_ray.config as settings
from dynat_ray import interrupt
from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.distributed.graceful_stop import until_stopped
from dynat_ray.distributed.mirror_follower import Follower
from dynat_ray.distributed.notices import FlagDown
from dynat_ray.distributed.place_watch import PlaceWatch
from dynat_ray.distributed.placement_groups import free_group
from dynat_ray.distributed.process_group import ProcessGroup
from dynat_ray.distributed.progress import ProgressPrinter, add_note
from dynat_ray.distributed.ray_internals import data_parallel_trainer
from dynat_ray.distributed.restarts import Restarts, death
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.training_end import TrainingEnd
from dynat_ray.distributed.waiting_for_nodes import wait_for_nodes
from dynat_ray.errors import Stopped, UserError, disk_error
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.checkpoint_names import CHECKPOINTS, CHECKPOINTS_KEPT
from dynat_ray.storage.mirror import Mirror
from dynat_ray.training.freed_memory import KEEP_FREED_MEMORY

# A run on fewer nodes than it may have looks for more this often; each change costs a restart.
_SECONDS_BETWEEN_RESIZES = 60.0
# Ray Train's controller asks each worker how it is. A report counts once it has heard of it, so
# this bounds what a crash can cost; with many workers it must not be asking all the time.
_POLLING = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
_POLLING_GIVEN = os.environ.get(_POLLING)
_SHORTEST_SECONDS_BETWEEN_POLLS = 0.5
_POLLS_PER_SECOND = 64
# A controller that was ended with its command is followed by this process.
_SECONDS_TO_FOLLOW = 3.0
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


def resolve_workers(cluster: ClusterConfig, *, beside: bool = False) -> Workers:
    """Returns how many workers a run has on this cluster, and whether each has a GPU.

    Args:
        cluster: What was asked for.
        beside: Another place like a worker's is needed, for validation.

    Raises:
        UserError: The cluster has no room for them, now or later.
    """
    # What a run gets must not follow from which nodes happen to be there yet.
    gpu = has_gpus() if cluster.gpu == "auto" else cluster.gpu
    wanted = cluster.worker_range()
    if wanted is None:
        fitting = max(1, places(cluster.cpus_per_worker, gpu) - beside)
        wanted = (fitting, fitting) if gpu else (min(2, fitting),) * 2
    # An elastic run starts with the workers that there are.
    require_places(wanted[0] + beside, cluster.cpus_per_worker, gpu, one_validates=beside)
    return Workers(*wanted, gpu)


def fit(
    config: settings.RunConfig,
    run_folder: Path,
    *,
    callbacks: Sequence[UserCallback] = (),
    quiet: bool = False,
    stop: StopFlag | None = None,
    ended_by_others: bool = False,
) -> None:
    """Trains `config` in `run_folder`, which holds its `config.yaml`, printing a line per epoch.

    Args:
        config: The run.
        run_folder: Its folder; where that stands for a place in a store, the workers write there.
        callbacks: Ray Train calls them after every epoch.
        quiet: Print nothing.
        stop: Of the command that this training is a part of; None: it is the command.
        ended_by_others: Somebody else may end this process and with it the controller, whose death
            is raised then (`RayActorError`); else it is a failure as that of a worker is.

    Raises:
        UserError: What the user can correct; what a worker said of it.
        Stopped: The command received a signal, and a checkpoint is written.
    """
    connect()
    workers = resolve_workers(config.cluster, beside=config.eval.beside)
    config.smallest_share(workers.most)
    mirror = Mirror.of(run_folder)
    if mirror is not None:
        mirror.push()
    os.environ[_POLLING] = _POLLING_GIVEN or str(_seconds_between_polls(workers.most))
    stop = stop or StopFlag()
    own = stop.of_training()

    trainer = partial(_trainer, config, run_folder, mirror, own, workers, callbacks)
    watch = PlaceWatch(own, workers.fewest, config.cluster.cpus_per_worker, workers.gpu)
    with (
        watch,
        # It ends last, when everything is here.
        nullcontext() if quiet else ProgressPrinter(run_folder, config),
        nullcontext() if mirror is None else Follower(mirror),
    ):
        note = partial(add_note, run_folder) if mirror is None else _print_note
        places_needed = workers.fewest + config.eval.beside
        wait = partial(wait_for_nodes, places_needed, config.cluster.cpus_per_worker, workers.gpu)
        failures: tuple[type[Exception], ...] = (ray.train.TrainingFailedError,)
        if not ended_by_others:
            failures += (RayActorError,)
        free = partial(free_group, own.training)
        work = partial(_until_its_end, trainer, config.cluster, wait, failures, free, note)
        end = until_stopped(work, stop, lambda: watch.hopeless)
    if end.error:
        raise UserError(end.error)
    if end.stopped:
        raise Stopped("a checkpoint is written")


def _trainer(
    config: settings.RunConfig,
    run_folder: Path,
    mirror: Mirror | None,
    own: StopFlag,
    workers: Workers,
    callbacks: Sequence[UserCallback],
) -> Any:
    """Returns what trains when its `fit` is called."""
    return data_parallel_trainer()(
        _run_worker,
        train_loop_config={
            "run_folder": str(run_folder),
            "address": "" if mirror is None else mirror.address,
            "stop_flag": own.name,
            "training": own.training,
        },
        backend_config=ProcessGroup(own.training, workers.gpu, _COLLECTIVE_TIMEOUT),
        scaling_config=_scaling(config.cluster, workers),
        run_config=_train_options(
            config.cluster, workers, run_folder, mirror, [*callbacks, FlagDown(own)]
        ),
    )


def _run_worker(arguments: dict[str, str]) -> TrainingEnd:
    from dynat_ray.distributed.worker import run_worker

    return run_worker(arguments)


def _seconds_between_polls(workers: int) -> float:
    return max(_SHORTEST_SECONDS_BETWEEN_POLLS, workers / _POLLS_PER_SECOND)


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
        # See `Restarts`, which counts them.
        failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),  # type: ignore[call-arg]
        checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
        callbacks=list(callbacks),  # type: ignore[arg-type]
        logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
        worker_runtime_env={"env_vars": variables | ({} if workers.gpu else KEEP_FREED_MEMORY)},
    )


def _until_its_end(
    trainer: Callable[[], Any],
    cluster: ClusterConfig,
    wait: Callable[..., None],
    failures: tuple[type[Exception], ...],
    free: Callable[[], None],
    note: Callable[[str], None],
) -> TrainingEnd:
    """Trains, and again after whatever a restart may help against; raises what it may not."""
    restarts, minutes = Restarts(cluster), cluster.start_minutes
    while True:
        wait(minutes=minutes)
        try:
            result = trainer().fit()
            end: TrainingEnd = result.return_value or TrainingEnd()
            return end
        except failures as error:
            if isinstance(error, RayActorError):
                time.sleep(_SECONDS_TO_FOLLOW)
            sentence = "" if interrupt.received() else restarts.allow(error)
            if not sentence:
                raise _cause_of(error) from error
            note(sentence)
            # Machines that were there once come back, some time.
            minutes = math.inf
        finally:
            free()


def _print_note(message: str) -> None:
    print(f"note: {shown_text(message)}", file=sys.stderr, flush=True)


def _cause_of(error: Exception) -> Exception:
    """Returns what ended a training: a user's mistake as such, in whichever worker it showed."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        if mistake := _users_mistake(failure):
            return mistake
    if died := death(error):
        return UserError(
            f"{died}, and cluster.max_failures allows no restart any more; smaller batches "
            "(train.batch_size) or fewer workers on a machine (cluster.workers) need less memory"
        )
    for rank, failure in sorted(failures.items()):
        return RuntimeError(f"worker {rank} failed: {failure}")
    return error


def _users_mistake(failure: Exception) -> UserError | None:
    """Returns what the user can correct, if that is what a worker raised."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        if isinstance(cause, OSError) and (full := disk_error(cause)):
            return full
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None
