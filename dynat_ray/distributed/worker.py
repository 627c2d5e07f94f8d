"""What runs on every training worker."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# isort: split
import ray.train
import ray.train.torch
import ray.util
import torch
from ray.train import CheckpointUploadMode as Upload

from dynat_ray.atomic_files import atomic_folder
from dynat_ray.config import RunConfig
from dynat_ray.distributed.notices import WorkerNotices
from dynat_ray.distributed.placement_groups import GROUP, current_group
from dynat_ray.distributed.progress import add_note
from dynat_ray.distributed.ray_internals import silence_reports
from dynat_ray.distributed.run_gauges import RunGauges
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.training_end import TrainingEnd
from dynat_ray.distributed.validation_place import ValidationPlace
from dynat_ray.storage.background_push import BackgroundPush
from dynat_ray.storage.checkpoint_names import CHECKPOINTS, checkpoint_folders
from dynat_ray.storage.mirror import Mirror
from dynat_ray.storage.run_folder import CONFIG, read_run_config
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.checkpoint import is_complete
from dynat_ray.training.session import Notice, StopRequested
from dynat_ray.training.trainer import train


class RaySession:
    """This worker's surroundings under Ray Train.

    Args:
        run_folder: The run's, or what stands for it on this machine.
        mirror: Of `run_folder`, where that is mirrored in a store; else None.
        stopping: How the command says that the run is to end.
    """

    def __init__(self, run_folder: Path, mirror: Mirror | None, stopping: StopFlag) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.run_folder = run_folder
        self.scratch_folder = Path(tempfile.gettempdir())
        self.place = ray.util.get_node_ip_address()
        self.node = ray.get_runtime_context().get_node_id()
        self._mirror = mirror
        self._sending = BackgroundPush(mirror) if mirror is not None and self.rank == 0 else None
        self._gauges = RunGauges(run_folder.name) if self.rank == 0 else None
        self._group = current_group()
        self._notices = WorkerNotices(stopping, self.rank)

    def checkpoints(self) -> Iterable[Path]:
        if self._mirror is not None:
            # A worker that was killed while it sent one has left a part of it there.
            return filter(is_complete, self._mirror.checkpoints())
        return checkpoint_folders(self.run_folder / CHECKPOINTS)

    def report(
        self, metrics: Mapping[str, Any], name: str, folder: Path | None, *, wait: bool = False
    ) -> None:
        if folder is not None:
            # What belongs to a checkpoint is there before it; mostly it was sent by `files_kept`.
            self.close()
        elif self._sending is not None:
            self._sending.check()
            self._sending.begin()
        if self._gauges is not None:
            self._gauges.set(metrics)
        checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(folder)
        ray.train.report(
            {**metrics, GROUP: self._group},
            checkpoint=checkpoint,
            checkpoint_dir_name=name,
            checkpoint_upload_mode=Upload.SYNC if wait else Upload.ASYNC,
            delete_local_checkpoint_after_upload=True,
            # To a store, Ray sends it: an object there is whole anyway.
            checkpoint_upload_fn=self._keep if self._mirror is None else None,
        )

    def _keep(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Copies a checkpoint to its place, where it is whole or not there at any moment."""
        kept = self.run_folder / CHECKPOINTS / name
        with atomic_folder(kept) as new:
            for file in Path(checkpoint.path).iterdir():
                shutil.copyfile(file, new / file.name)
        return ray.train.Checkpoint.from_directory(kept)

    def validating(self, config: RunConfig) -> ValidationPlace:
        return ValidationPlace(config, gpu=self.device.type == "cuda")

    def files_kept(self) -> None:
        if self._sending is not None:
            self._sending.wait()

    def close(self) -> None:
        """Returns when the first worker's files are in the store, where there is one.

        Raises:
            UserError: They can't be sent there.
        """
        if self._sending is not None:
            self._sending.wait()
            self._sending.check()

    def note(self, message: str) -> None:
        add_note(self.run_folder, message)
        if self._sending is not None:
            self._sending.begin()

    def notice(self) -> Notice:
        return self._notices.poll()

    def saved(self) -> None:
        self._notices.saved()


def run_worker(arguments: dict[str, str]) -> TrainingEnd:
    """Trains; a mistake that all workers agree on is returned, not retried.

    Args:
        arguments: `run_folder`, `address` (of the store; empty: none), `stop_flag` and `training`.
    """
    silence_reports()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = ray.train.torch.get_device()
    if device.type == "cuda":  # Which GPU is meant by "cuda", each thread says for itself.
        torch.cuda.set_device(device)
    stopping = StopFlag(arguments["stop_flag"], arguments["training"])
    if not arguments["address"]:
        return _train(Path(arguments["run_folder"]), None, stopping)
    with tempfile.TemporaryDirectory(prefix="dynat-ray-") as scratch:
        mirror = Mirror(Path(scratch) / Path(arguments["run_folder"]).name, arguments["address"])
        if ray.train.get_context().get_world_rank() == 0:
            mirror.pull(leave=("samples", "model", "model_last", "tensorboard"))
        else:  # Only the first worker goes on with the files of the run.
            mirror.pull(only=(CONFIG,))
        return _train(mirror.folder, mirror, stopping)


def _train(run_folder: Path, mirror: Mirror | None, stopping: StopFlag) -> TrainingEnd:
    session = RaySession(run_folder, mirror, stopping)
    end = TrainingEnd()
    if session.rank == 0:
        stopping.begin()
    try:
        train(read_run_config(run_folder), session)
    except SharedUserError as error:
        end = TrainingEnd(error=str(error))
    except StopRequested:
        end = TrainingEnd(stopped=True)
    session.close()
    if session.rank == 0:
        stopping.end(saved=end.stopped)
    return end
