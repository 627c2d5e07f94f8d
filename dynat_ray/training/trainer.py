"""The training loop of one worker."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import torch

from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.hardware import device_name, peak_memory_bytes
from dynat_ray.storage.checkpoint_names import checkpoint_name
from dynat_ray.training.acceleration_record import record_acceleration
from dynat_ray.training.agreement import (
    FiniteLossWatch,
    SharedUserError,
    on_all_workers,
    require_finite_weights,
)
from dynat_ray.training.checkpoint_writer import CheckpointWriter
from dynat_ray.training.device import usable_precision
from dynat_ray.training.final_models import save_models
from dynat_ray.training.optimisation import build_optimizer, learning_rate, set_learning_rate
from dynat_ray.training.resolution import shrunk
from dynat_ray.training.resuming import resume
from dynat_ray.training.session import Notice, Session
from dynat_ray.training.setup import Materials, build_materials
from dynat_ray.training.state import BestModel, Progress, collect_state, weights_on_cpu
from dynat_ray.training.step import Stepper, wrap
from dynat_ray.training.telemetry import EpochRecord, SampleLog
from dynat_ray.training.timing import Waiting, find_slow_worker
from dynat_ray.training.validation import ValidationAccuracy, validate


def train(config: RunConfig, session: Session) -> None:
    """Trains until the configured epoch, going on from the newest intact checkpoint.

    Args:
        config: The run.
        session: Where it runs; the process group exists already where there are several workers.

    Raises:
        SharedUserError: What the user can correct; also a loss that is not finite.
        StopRequested: The session was told that the run is to end; a checkpoint is written.
    """
    torch.manual_seed(config.train.seed + session.rank)
    with (
        cpu_kernels(config.train.cpu_kernels),
        closing(on_all_workers(lambda: build_materials(config, session))) as materials,
        closing(CheckpointWriter(session, config.train.checkpoint_minutes)) as writer,
    ):
        networks = wrap(materials.model, config.train)
        optimizer = build_optimizer(
            materials.model,
            config.optim,
            materials.method.extra,
            materials.method.extra_learning_rate_ratio,
        )
        progress = resume(session, networks, optimizer, materials)
        stepper = Stepper(networks, materials.method, optimizer, config.train, session.device)
        _note_precision(config, session)
        try:
            while progress.epoch < config.train.epochs:
                record = _train_epoch(config, session, materials, stepper, progress, writer)
                progress.epoch += 1
                _end_epoch(config, session, materials, stepper, progress, record, writer)
        except SharedUserError:
            # What was saved before the mistake is worth keeping.
            writer.hand_over(wait=True)
            raise
        if session.rank == 0:
            save_models(session.run_folder, materials.model, networks, progress)


def _note_precision(config: RunConfig, session: Session) -> None:
    precision = usable_precision(config.train.precision, session.device)
    if precision != config.train.precision and session.rank == 0:
        session.note(
            f"this processor has no instructions for {config.train.precision}; {precision} is used"
        )


def _train_epoch(
    config: RunConfig,
    session: Session,
    materials: Materials,
    stepper: Stepper,
    progress: Progress,
    writer: CheckpointWriter,
) -> EpochRecord | None:
    """Runs one epoch's steps, or what is left of them; returns its record on rank 0."""
    loader, epoch = materials.train_loader, progress.epoch
    log = SampleLog(progress.record)
    watch = FiniteLossWatch(progress.step)
    materials.method.start_epoch(epoch)
    carried = materials.carried
    if carried is not None:
        carried.start_epoch(epoch)
    waiting = Waiting()
    began = time.monotonic()
    batches = waiting.over(loader.iterate(epoch, progress.step))
    for number, raw in enumerate(batches, start=progress.step):
        batch = materials.augmentation(
            raw.images, raw.labels, raw.indices, epoch, materials.info.num_classes
        )
        if carried is not None:
            batch = carried.add_to(batch)
        done = epoch + number / loader.steps
        batch = shrunk(batch, config.data, done / config.train.epochs)
        rate = learning_rate(config.optim, done, config.train.epochs)
        rate *= materials.method.learning_rate_ratio
        set_learning_rate(stepper.optimizer, rate)
        outcome = stepper.step(batch, epoch, progress.global_step, loader.global_sizes[number])
        progress.global_step += 1
        progress.step = number + 1
        if carried is not None:
            carried.keep(outcome.prepared)
        log.add(outcome)
        watch.see(outcome.loss, epoch)
        if progress.step == loader.steps:
            continue  # The end of an epoch has a checkpoint of its own.
        notice = writer.look()
        if notice != Notice.NOTHING:
            watch.check(epoch)
            seconds = time.monotonic() - began
            progress.elapsed += seconds
            progress.record = log.gather(seconds, waiting.take())
            log = SampleLog(progress.record)
            _begin_checkpoint(materials, stepper, progress, {}, writer)
            writer.heed(notice)
            began = time.monotonic()
    watch.check(epoch)
    slow = find_slow_worker(session.device, session.place)
    if slow and session.rank == 0:
        session.note(f"epoch {epoch + 1}: {slow}")
    seconds = time.monotonic() - began
    progress.elapsed += seconds
    progress.step, progress.record = 0, None
    return log.gather(seconds, waiting.take())


def _end_epoch(
    config: RunConfig,
    session: Session,
    materials: Materials,
    stepper: Stepper,
    progress: Progress,
    record: EpochRecord | None,
    writer: CheckpointWriter,
) -> None:
    """Measures, keeps the best weights, writes the epoch's line and checkpoint."""
    epoch, last = progress.epoch - 1, progress.epoch == config.train.epochs
    networks = stepper.networks
    accuracy = None
    if materials.validation_loader is not None and (
        last or progress.epoch % config.eval.every_epochs == 0
    ):
        accuracy = validate(networks.evaluated, materials.validation_loader, config)
    is_best = False
    if accuracy is not None:
        score = stepper.method.score(accuracy.clean, accuracy.robust)
        is_best = score > progress.best.score
        if is_best:
            progress.best = BestModel(score, epoch, weights_on_cpu(networks.evaluated))
    line: dict[str, Any] = {}
    if record is not None:
        line = _metrics_line(config, session, stepper, progress, record, accuracy, is_best)
    on_all_workers(lambda: _write_epoch(session, materials, line, record))
    if session.rank == 0:
        record_acceleration(session, networks)
    notice = writer.look()
    if last or notice != Notice.NOTHING or progress.epoch % config.train.checkpoint_epochs == 0:
        _begin_checkpoint(materials, stepper, progress, line, writer)
    else:
        writer.hand_over()
        session.report(line, checkpoint_name(progress.epoch, 0), None)
    writer.heed(notice)
    if last:
        writer.hand_over(wait=True)


def _begin_checkpoint(
    materials: Materials,
    stepper: Stepper,
    progress: Progress,
    line: dict[str, Any],
    writer: CheckpointWriter,
) -> None:
    """Begins to write a checkpoint, which is reported with the `line`."""
    require_finite_weights(stepper.networks.core)
    state = collect_state(progress, stepper.networks, stepper.optimizer, materials)
    writer.begin(line, checkpoint_name(progress.epoch, progress.step), state)


def _write_epoch(
    session: Session, materials: Materials, line: dict[str, Any], record: EpochRecord | None
) -> bool:
    """Writes an epoch's files on rank 0, which has the record."""
    if record is None:
        return True
    try:
        materials.writer.write(line, record)
    except OSError as error:
        raise UserError(
            f"the run folder {session.run_folder} can't be written: {error}; free some space and "
            "run the same command with --resume"
        ) from error
    return True


def _metrics_line(
    config: RunConfig,
    session: Session,
    stepper: Stepper,
    progress: Progress,
    record: EpochRecord,
    accuracy: ValidationAccuracy | None,
    is_best: bool,
) -> dict[str, Any]:
    return {
        "epoch": progress.epoch - 1,
        "step": progress.global_step,
        "learning_rate": stepper.optimizer.param_groups[0]["lr"],
        "loss": record.loss,
        "train_clean_accuracy": record.clean_accuracy(),
        "train_robust_accuracy": record.robust_accuracy(),
        "validation_clean_accuracy": accuracy.clean if accuracy else None,
        "validation_robust_accuracy": accuracy.robust if accuracy else None,
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
        "precision": usable_precision(config.train.precision, session.device),
        "best": is_best,
    }
