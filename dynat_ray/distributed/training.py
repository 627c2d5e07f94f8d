"""A training run through Ray Train: start the workers, follow them, collect what they say."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dynat_ray.distributed.session import cluster_total, connect, require_cluster

# isort: split
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

import dynat_ray.config as settings
from dynat_ray.distributed.leftovers import GROUP, current_group
from dynat_ray.distributed.progress import ProgressPrinter, add_note
from dynat_ray.errors import UserError, disk_error
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.checkpoint import checkpoint_folders
from dynat_ray.training.loop import train
from dynat_ray.training.run_folder import read_run_config
from dynat_ray.training.session import CHECKPOINTS_KEPT

# Ray Train's own folder of a run, inside ours.
_CHECKPOINTS = "checkpoints"
# Workers may wait for one another this long (validation of unequal parts, a slow disk).
_COLLECTIVE_TIMEOUT = 3600


class RaySession:
    """This worker's surroundings under Ray Train."""

    def __init__(self, run_folder: Path) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.run_folder = run_folder
        self.scratch_folder = Path(tempfile.gettempdir())
        self._group = current_group()

    def checkpoints(self) -> list[Path]:
        return checkpoint_folders(self.run_folder / _CHECKPOINTS)

    def report(self, metrics: Mapping[str, Any], name: str, folder: Path | None) -> None:
        checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(folder)
        ray.train.report(
            {**metrics, GROUP: self._group}, checkpoint=checkpoint, checkpoint_dir_name=name
        )

    def note(self, message: str) -> None:
        add_note(self.run_folder, message)


def resolve_workers(cluster: settings.ClusterConfig) -> tuple[int, int, bool]:
    """Returns the smallest and largest number of workers and whether each has a GPU.

    Raises:
        UserError: The cluster has fewer CPUs or GPUs.
    """
    gpus = int(cluster_total("GPU"))
    gpu = gpus > 0 if cluster.gpu == "auto" else cluster.gpu
    wanted = cluster.worker_range()
    if wanted is None:
        by_cpu = min(2, int(cluster_total("CPU")) // cluster.cpus_per_worker)
        wanted = (gpus, gpus) if gpu else (max(1, by_cpu), max(1, by_cpu))
    # An elastic run starts with the workers that there are.
    require_cluster(wanted[0], cluster.cpus_per_worker, gpu)
    return *wanted, gpu


def fit(
    config: settings.RunConfig,
    run_folder: Path,
    *,
    callbacks: Sequence[UserCallback] = (),
    quiet: bool = False,
) -> None:
    """Trains `config` in `run_folder`, which holds its `config.yaml`, printing a line per epoch.

    Args:
        config: The run.
        run_folder: Its folder.
        callbacks: Ray Train calls them after every epoch.
        quiet: Print nothing.

    Raises:
        UserError: What the user can correct; what a worker said of it.
    """
    connect()
    low, high, gpu = resolve_workers(config.cluster)
    resources = {"CPU": float(config.cluster.cpus_per_worker)} | ({"GPU": 1.0} if gpu else {})
    # Ray's static types are those of its older API.
    trainer = TorchTrainer(
        _worker,  # type: ignore[arg-type]
        train_loop_config={"run_folder": str(run_folder)},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_TIMEOUT),
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),  # type: ignore[arg-type]
            use_gpu=gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=_CHECKPOINTS,
            storage_path=str(run_folder),
            failure_config=FailureConfig(max_failures=config.cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
            callbacks=list(callbacks),  # type: ignore[arg-type]
            logging_config=ray.train.LoggingConfig(log_level="CRITICAL"),
            worker_runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(config.cluster.cpus_per_worker)}
            },
        ),
    )
    with nullcontext() if quiet else ProgressPrinter(run_folder, config):
        try:
            result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            failures = getattr(error, "worker_failures", {})
            for rank, failure in sorted(failures.items()):
                raise _as_user_error(rank, failure) from error
            raise
    answer = result.return_value  # type: ignore[attr-defined]
    if answer and answer["error"]:
        raise UserError(answer["error"])


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


def _worker(arguments: dict[str, Any]) -> dict[str, str]:
    """Runs on every worker; a mistake that all workers agree on is returned, not retried."""
    # Ray Train logs every report of every worker here, whatever the log level of the run is.
    import ray.train.v2._internal.execution.context as context

    logging.getLogger(context.__file__).setLevel(logging.CRITICAL)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run_folder = Path(arguments["run_folder"])
    try:
        train(read_run_config(run_folder), RaySession(run_folder))
    except SharedUserError as error:
        return {"error": str(error)}
    return {"error": ""}
