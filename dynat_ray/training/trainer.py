"""The training loop of one worker."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import torch

from dynat_ray.acceleration.precision import usable_precision
from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.collectives import max_over_workers
from dynat_ray.config import RunConfig
from dynat_ray.data import Batch, RawBatch
from dynat_ray.hardware import device_name, peak_memory_bytes
from dynat_ray.methods.contract import ContractError
from dynat_ray.storage.checkpoint_names import checkpoint_name
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.acceleration_record import record_acceleration
from dynat_ray.training.agreement import SharedUserError, on_all_workers
from dynat_ray.training.attack_watch import AttackWatch
from dynat_ray.training.checkpoint_writer import CheckpointWriter
from dynat_ray.training.course import Course
from dynat_ray.training.epoch_validation import EpochValidation
from dynat_ray.training.fetching import fetch_data
from dynat_ray.training.final_models import save_models
from dynat_ray.training.finiteness import FiniteWatch, require_finite_state
from dynat_ray.training.optimisation import build_optimizer, learning_rate, set_learning_rate
from dynat_ray.training.resolution import shrunk
from dynat_ray.training.resuming import resume
from dynat_ray.training.session import Notice, Session
from dynat_ray.training.setup import TrainingSetup, build_setup
from dynat_ray.training.state import collect_state
from dynat_ray.training.step import Stepper, wrap
from dynat_ray.training.telemetry import EpochRecord, SampleLog
from dynat_ray.training.timing import LoaderTime, find_slow_worker

# Epochs that may wait for their validation beside training; their weights are in rank 0's memory.
_MOST_WAITING = 3


def train(config: RunConfig, session: Session) -> None:
    """Trains for the configured length, going on from the newest intact checkpoint.

    Args:
        config: The run.
        session: Where it runs; the process group exists already where there are several workers.

    Raises:
        SharedUserError: What the user can correct; also what is not finite.
        StopRequested: A signal asked for the end of the run; a checkpoint is written.
    """
    torch.manual_seed(config.train.seed + session.rank)
    share = fetch_data(config, session)
    with (
        cpu_kernels(config.train.cpu_kernels),
        closing(on_all_workers(lambda: build_setup(config, session, share))) as setup,
        closing(CheckpointWriter(session, config.train.checkpoint_minutes)) as checkpoints,
    ):
        Trainer(config, session, setup, checkpoints).run()


class Trainer:
    """Owns a run on one worker: what is trained, how far it is, and what it leaves behind.

    Every worker makes one and calls the same methods.

    Args:
        config: The run.
        session: Where it runs.
        setup: Data, network and method.
        checkpoints: Who writes them.

    Attributes:
        networks: What is trained, attacked and evaluated.
        progress: Where the run is; at the newest intact checkpoint when the trainer is made.
        course: How far that is, of the whole.
    """

    def __init__(
        self,
        config: RunConfig,
        session: Session,
        setup: TrainingSetup,
        checkpoints: CheckpointWriter,
    ) -> None:
        self.config, self.session, self.setup = config, session, setup
        self.checkpoints = checkpoints
        self.networks = wrap(setup.model, config.train)
        method = setup.method
        self.optimizer = build_optimizer(
            setup.model, config.optim, method.extra, method.extra_learning_rate_ratio
        )
        self.progress = resume(session, self.networks, self.optimizer, setup)
        self.stepper = Stepper(self.networks, method, self.optimizer, config.train, session.device)
        length = RunLength.of(config.train)
        self.course = Course(length, self.progress, setup.train_loader, session.device)
        self._epochs_done = self.course.epochs
        self.validation = EpochValidation(config, session, setup, self.networks, self.progress)
        self._finite = FiniteWatch(0)
        self._attacks = AttackWatch(config, setup.info.num_classes)
        self._loader_time = LoaderTime()
        self._start_log()

    def run(self) -> None:
        """Trains what is left of the run, and saves its best and its last model."""
        self._note_precision()
        try:
            while not self.course.now.over:
                self.end_epoch(self.train_epoch())
            while (notice := self._wait_for_validation(most=0)) >= Notice.SAVE:
                self.checkpoints.comply(notice)
        except SharedUserError:
            # What was saved before the mistake is worth keeping.
            self.checkpoints.hand_over(wait=True)
            raise
        if self.session.rank == 0:
            folder, units = self.session.run_folder, self.course.units
            save_models(folder, self.setup.model, self.networks, self.progress, units)

    def train_epoch(self) -> EpochRecord | None:
        """Takes an epoch's steps, or what is left of them; returns its record on rank 0.

        It ends early where the run does.
        """
        loader, progress = self.setup.train_loader, self.progress
        epoch = progress.epoch
        self._start_epoch(epoch)
        for raw in self._loader_time.over(loader.iterate(epoch, progress.step)):
            self.train_step(raw)
            # The end of an epoch has a checkpoint of its own.
            if progress.step < loader.steps:
                if self.course.now.over:
                    break
                self._save_if_due()
        self._finite.check(epoch)
        self._note_slow_worker()
        record = self._gather_record()
        self._note_attacks(record)
        self._epochs_done = self.course.epochs
        progress.epoch, progress.step, progress.record = epoch + 1, 0, None
        return record

    def train_step(self, raw: RawBatch) -> None:
        """Augments and attacks a batch, updates the weights once, and notes what happened.

        Args:
            raw: This worker's part of the next global batch.
        """
        loader, progress = self.setup.train_loader, self.progress
        epoch, number = progress.epoch, progress.step
        how_far = self.course.now
        batch = self._augmented(raw, how_far.share)
        rate = learning_rate(self.config.optim, how_far)
        set_learning_rate(self.optimizer, rate * self.setup.method.learning_rate_ratio)
        try:
            outcome = self.stepper.step(
                batch, epoch, progress.global_step, loader.global_sizes[number]
            )
        except ContractError as error:
            # The method is the same on all workers, so that all raise alike.
            raise SharedUserError(str(error)) from error
        progress.global_step += 1
        progress.step = number + 1
        self.course.spend(outcome.passes.units)
        if self.setup.carried is not None:
            self.setup.carried.write(outcome.parts)
        self._samples.add(outcome)
        self._finite.see(outcome.look(), epoch)

    def end_epoch(self, record: EpochRecord | None) -> None:
        """Validates, keeps the best weights, writes the epoch's line and its checkpoint.

        Args:
            record: Of the epoch that has just ended, on rank 0.
        """
        progress, config = self.progress, self.config
        last = self.course.now.over
        line = {} if record is None else self._metrics_line(record)
        self.validation.end_epoch(line, last=last)
        on_all_workers(lambda: self._write_epoch(record))
        if self.session.rank == 0:
            record_acceleration(self.session, self.networks)
        notice = self._wait_for_validation(most=_MOST_WAITING)
        due = progress.epoch % config.train.checkpoint_epochs == 0
        if last or due or notice != Notice.NOTHING:
            self._begin_checkpoint(line)
        else:
            self.checkpoints.hand_over()
            self.session.report(line, checkpoint_name(progress.epoch, 0), None)
        self.checkpoints.comply(notice)
        if last:
            self.checkpoints.hand_over(wait=True)

    def _start_epoch(self, epoch: int) -> None:
        self.setup.method.start_epoch(epoch, self.course.begin_epoch().share)
        if self.setup.carried is not None:
            self.setup.carried.start_epoch(epoch)
        self._finite = FiniteWatch(self.progress.step)
        self._loader_time = LoaderTime()
        self._start_log()

    def _start_log(self) -> None:
        """Begins to collect samples and seconds, on top of what the progress holds."""
        self._samples = SampleLog(self.progress.record)
        self._began = time.monotonic()

    def _gather_record(self) -> EpochRecord | None:
        """Returns what all workers have collected of the epoch so far, on rank 0."""
        seconds = time.monotonic() - self._began
        self.progress.elapsed += seconds
        self.course.exchange()
        return self._samples.gather(seconds, self._loader_time.take())

    def _augmented(self, raw: RawBatch, share: float) -> Batch:
        setup, epoch = self.setup, self.progress.epoch
        batch = setup.augmentation(
            raw.images, raw.labels, raw.indices, epoch, setup.info.num_classes
        )
        if setup.carried is not None:
            batch = setup.carried.added_to(batch)
        return shrunk(batch, self.config.data, share)

    def _save_if_due(self) -> None:
        """Begins a checkpoint inside the epoch, where time or a notice asks for one."""
        notice = self.checkpoints.look()
        if notice == Notice.NOTHING:
            return
        self._finite.check(self.progress.epoch)
        self.progress.record = self._gather_record()
        self._begin_checkpoint({})
        self.checkpoints.comply(notice)
        self._start_log()

    def _begin_checkpoint(self, line: dict[str, Any]) -> None:
        """Begins to write a checkpoint, which is reported with the `line`."""
        progress = self.progress
        state = collect_state(progress, self.networks, self.optimizer, self.setup)
        require_finite_state(state)
        name = checkpoint_name(progress.epoch, progress.step)
        self.checkpoints.begin(line, name, state, after=self._epoch_kept)

    def _epoch_kept(self) -> None:
        """Returns, on rank 0's thread for checkpoints, when what belongs to one is kept."""
        self.setup.writer.wait()
        self.session.files_kept()

    def _wait_for_validation(self, *, most: int) -> Notice:
        """Returns when at most so many epochs wait for theirs, or a notice asks for a checkpoint.

        Returns:
            The notice.
        """
        notice = self.checkpoints.look()
        while notice < Notice.SAVE and self._are_waiting(most):
            notice = self.checkpoints.look(at_once=True)
        return notice

    def _are_waiting(self, most: int) -> bool:
        """Returns, alike on all workers, whether more epochs wait; if so, a second later."""
        more = self.validation.waiting > most
        on_all_workers(lambda: self._write_finished(1.0 if more else 0.0))
        return bool(max_over_workers(torch.tensor(int(more), device=self.session.device)))

    def _metrics_line(self, record: EpochRecord) -> dict[str, Any]:
        """Returns what the metrics say of an epoch that is not validated yet."""
        progress, session = self.progress, self.session
        return {
            "epoch": progress.epoch - 1,
            "epochs_done": self._epochs_done,
            "step": progress.global_step,
            "forward_units": self.course.units,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "loss": record.loss,
            "train_clean_accuracy": record.clean_accuracy(),
            "train_robust_accuracy": record.robust_accuracy(),
            "validation_clean_accuracy": None,
            "validation_robust_accuracy": None,
            "attacked_share": record.attacked_share(),
            "mean_eps": record.attacked_mean("eps"),
            "mean_attack_steps": record.attacked_mean("attack_steps"),
            "mean_weight": record.mean("weight"),
            "passes_per_sample": record.passes / len(record),
            "images_per_second": len(record) / record.seconds,
            "seconds": record.seconds,
            "loader_seconds": record.loader_seconds,
            "elapsed": progress.elapsed,
            "peak_memory_bytes": peak_memory_bytes(session.device),
            "workers": session.world_size,
            "device_name": device_name(session.device),
            "precision": usable_precision(self.config.train.precision, session.device),
            "best": False,
        }

    def _write_epoch(self, record: EpochRecord | None) -> bool:
        """Writes an epoch's samples on rank 0, which has them, and all metrics that are whole."""
        if record is not None:
            self.setup.writer.write_samples(self.progress.epoch - 1, record)
        return self._write_finished()

    def _write_finished(self, seconds: float = 0.0) -> bool:
        for line in self.validation.finished(seconds):
            self.setup.writer.write_metrics(line)
        return True

    def _note_precision(self) -> None:
        wanted = self.config.train.precision
        precision = usable_precision(wanted, self.session.device)
        if precision != wanted and self.session.rank == 0:
            self.session.note(
                f"this processor has no instructions for {wanted}; {precision} is used"
            )

    def _note_attacks(self, record: EpochRecord | None) -> None:
        if record is not None and (word := self._attacks.look(record, self.progress)):
            self.session.note(f"epoch {self.progress.epoch + 1}: {word}")

    def _note_slow_worker(self) -> None:
        slow = find_slow_worker(self.session.device, self.session.place)
        if slow and self.session.rank == 0:
            self.session.note(f"epoch {self.progress.epoch + 1}: {slow}")
