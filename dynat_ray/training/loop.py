"""The training loop of one worker."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dynat_ray.collectives import max_over_workers, sum_over_workers, world_size
from dynat_ray.config import RunConfig
from dynat_ray.data import (
    Augmentation,
    DatasetInfo,
    Loader,
    balanced_subset,
    build_loader,
    load_info,
    load_labels,
    loader_kind,
    stratified_split,
)
from dynat_ray.errors import UserError
from dynat_ray.methods import Method, MethodContext, build_method
from dynat_ray.models import Classifier, build_model
from dynat_ray.training.checkpoint import read_checkpoint, write_checkpoint
from dynat_ray.training.models import save_models
from dynat_ray.training.optimisation import build_optimizer, learning_rate, set_learning_rate
from dynat_ray.training.session import Session
from dynat_ray.training.state import (
    BestModel,
    Progress,
    collect_state,
    restore_state,
    weights_on_cpu,
)
from dynat_ray.training.step import Networks, Stepper, wrap
from dynat_ray.training.telemetry import EpochRecord, RunWriter, SampleLog
from dynat_ray.training.validation import ValidationAccuracy, validate

# Steps between two looks at whether the loss is still finite (each waits for the device).
_STEPS_BETWEEN_CHECKS = 20

ResultT = TypeVar("ResultT")


class SharedUserError(UserError):
    """A user's mistake that every worker has seen and raises alike; trying again won't help."""


@dataclass
class Materials:
    """What a worker needs before the first step."""

    info: DatasetInfo
    train_loader: Loader
    validation_loader: Loader | None
    augmentation: Augmentation
    model: Classifier
    method: Method[Any]
    writer: RunWriter

    def close(self) -> None:
        """Stops the loaders and closes the event file."""
        self.train_loader.close()
        if self.validation_loader is not None:
            self.validation_loader.close()
        self.writer.close()


def train(config: RunConfig, session: Session) -> None:
    """Trains until the configured epoch, going on from the newest intact checkpoint.

    Args:
        config: The run.
        session: Where it runs; the process group exists already where there are several workers.

    Raises:
        SharedUserError: What the user can correct; also a loss that is not finite.
    """
    torch.manual_seed(config.train.seed + session.rank)
    materials = on_all_workers(lambda: _build(config, session))
    networks = wrap(materials.model, config.train)
    optimizer = build_optimizer(materials.model, config.optim)
    progress = _resume(session, networks, optimizer, materials.method)
    stepper = Stepper(networks, materials.method, optimizer, config.train, session.device)
    try:
        while progress.epoch < config.train.epochs:
            record = _train_epoch(config, session, materials, stepper, progress)
            progress.epoch += 1
            _end_epoch(config, session, materials, stepper, progress, record)
    finally:
        materials.close()
    if session.rank == 0:
        save_models(session.run_folder, materials.model, networks, progress.best)


def on_all_workers(build: Callable[[], ResultT]) -> ResultT:
    """Runs `build` and raises a worker's `UserError` on all of them, so that none waits for ever."""
    error, result = "", None
    try:
        result = build()
    except UserError as caught:
        error = str(caught)
    errors: list[Any] = [error]
    if world_size() > 1:
        errors = [None] * world_size()
        dist.all_gather_object(errors, error)
    for message in errors:
        if message:
            raise SharedUserError(message)
    assert result is not None
    return result


def _build(config: RunConfig, session: Session) -> Materials:
    data = config.data
    info = load_info(data.path)
    labels = load_labels(data.path, "train").numpy()
    everything = balanced_subset(labels, data.limit or len(labels), seed=config.train.seed)
    if data.val_fraction > 0:
        chosen, held_out = stratified_split(
            labels[everything], data.val_fraction, seed=config.train.seed
        )
        training, validation = everything[chosen], everything[held_out]
    else:
        training, validation = everything, everything[:0]
    shared = {
        "seed": config.train.seed,
        "rank": session.rank,
        "world_size": session.world_size,
        "kind": data.loader,
        "device": session.device,
        "threads": data.loader_threads,
        "channels_last": config.train.channels_last,
        "image_size": data.image_size,
    }
    train_loader = build_loader(
        data.path,
        "train",
        indices=training,
        batch_size=config.train.batch_size,
        shuffle=True,
        balance=data.balance,
        random_resized_crop="resized-crop" in data.augment,
        extra_path=data.extra_path,
        extra_fraction=data.extra_fraction,
        **shared,
    )
    validation_loader = None
    if len(validation) > 0:
        validation_loader = build_loader(
            data.path,
            "train",
            indices=validation,
            batch_size=config.eval.batch_size * session.world_size,
            shuffle=False,
            **shared,
        )
    model = _build_model(config, info)
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model = model.to(device=session.device, memory_format=memory_format)  # type: ignore[call-overload]
    augmentation, method = _build_parts(config, info, decoder_crops=train_loader.crops)
    writer = RunWriter(session.run_folder, info.counts["train"])
    return Materials(info, train_loader, validation_loader, augmentation, model, method, writer)


def check_run(config: RunConfig, info: DatasetInfo) -> str:
    """Raises `UserError` for what can't work, before any worker starts.

    Returns:
        The loader that `data.loader` stands for here.
    """
    model = _build_model(config, info)
    build_optimizer(model, config.optim)
    _build_parts(config, info, decoder_crops=False)
    return loader_kind(config.data.path, config.data.loader)


def _build_model(config: RunConfig, info: DatasetInfo) -> Classifier:
    side = config.data.image_size
    # The same first weights on all workers, whatever their other random numbers are.
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        return build_model(
            config.model.name,
            num_classes=info.num_classes,
            channels=info.channels,
            size=(side, side) if side else info.size,
            mean=info.mean,
            std=info.std,
            kwargs=config.model.kwargs,
            pretrained=config.model.pretrained,
            init_from=config.model.init_from,
        )


def _build_parts(
    config: RunConfig, info: DatasetInfo, *, decoder_crops: bool
) -> tuple[Augmentation, Method[Any]]:
    context = MethodContext(
        threat=config.threat,
        attack=config.attack,
        step_size=config.step_size(),
        classes=info.num_classes,
        label_smoothing=config.train.label_smoothing,
    )
    augmentation = Augmentation(config.data.augment, config.train.seed, decoder_crops=decoder_crops)
    return augmentation, build_method(config.method, context)


def _resume(
    session: Session,
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    method: Method[Any],
) -> Progress:
    """Goes on from the newest checkpoint that is intact on all workers."""
    for folder in session.checkpoints():
        state = read_checkpoint(folder)
        intact = torch.tensor(float(state is None), device=session.device)
        if max_over_workers(intact).item() == 0:
            assert state is not None
            return restore_state(state, networks, optimizer, method, session.rank)
        if session.rank == 0:
            session.note(f"checkpoint {folder.name} is damaged; the one before it is used")
    return Progress()


def _train_epoch(
    config: RunConfig,
    session: Session,
    materials: Materials,
    stepper: Stepper,
    progress: Progress,
) -> EpochRecord | None:
    """Runs one epoch's steps; returns its record on rank 0."""
    loader, epoch = materials.train_loader, progress.epoch
    log = SampleLog()
    watch = _FiniteLoss(session)
    began = time.monotonic()
    for number, raw in enumerate(loader.iterate(epoch)):
        batch = materials.augmentation(
            raw.images, raw.labels, raw.indices, epoch, materials.info.num_classes
        )
        done = epoch + number / loader.steps
        set_learning_rate(stepper.optimizer, learning_rate(config.optim, done, config.train.epochs))
        outcome = stepper.step(batch, epoch, progress.global_step, loader.global_sizes[number])
        progress.global_step += 1
        log.add(outcome)
        watch.see(outcome.loss, epoch, number)
    watch.check(epoch)
    seconds = time.monotonic() - began
    progress.elapsed += seconds
    return log.gather(seconds)


def _end_epoch(
    config: RunConfig,
    session: Session,
    materials: Materials,
    stepper: Stepper,
    progress: Progress,
    record: EpochRecord | None,
) -> None:
    """Measures, keeps the best weights, writes the epoch's line and checkpoint."""
    epoch, last = progress.epoch - 1, progress.epoch == config.train.epochs
    networks = stepper.networks
    accuracy = None
    if materials.validation_loader is not None and (
        last or progress.epoch % config.eval.every_epochs == 0
    ):
        accuracy = validate(networks.evaluated, materials.validation_loader, config)
    is_best = accuracy is not None and (accuracy.robust, accuracy.clean) > progress.best.score
    if is_best and accuracy is not None:
        progress.best = BestModel(
            (accuracy.robust, accuracy.clean), epoch, weights_on_cpu(networks.evaluated)
        )
    line: dict[str, Any] = {}
    if record is not None:
        line = _metrics_line(config, session, stepper, progress, record, accuracy, is_best)
    state = None
    if last or progress.epoch % config.train.checkpoint_epochs == 0:
        state = collect_state(progress, networks, stepper.optimizer, stepper.method)
    with tempfile.TemporaryDirectory(dir=session.scratch_folder) as folder:
        on_all_workers(lambda: _write(session, materials, line, record, state, Path(folder)))
        keep = state is not None and session.rank == 0
        session.report(line, f"epoch_{epoch:04d}", Path(folder) if keep else None)


def _write(
    session: Session,
    materials: Materials,
    line: dict[str, Any],
    record: EpochRecord | None,
    state: dict[str, Any] | None,
    checkpoint: Path,
) -> bool:
    """Writes an epoch's files on rank 0, which has the record."""
    if record is None:
        return True
    if state is not None:
        write_checkpoint(checkpoint, state)
    try:
        materials.writer.write(line, record)
    except OSError as error:
        raise UserError(
            f"the run folder {session.run_folder} can't be written: {error}; free some space and run the same "
            "command with --resume"
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
    on_cuda = session.device.type == "cuda"
    return {
        "epoch": progress.epoch - 1,
        "step": progress.global_step,
        "learning_rate": stepper.optimizer.param_groups[0]["lr"],
        "loss": record.loss,
        "train_clean_accuracy": record.clean_accuracy(),
        "train_robust_accuracy": record.robust_accuracy(),
        "validation_clean_accuracy": accuracy.clean if accuracy else None,
        "validation_robust_accuracy": accuracy.robust if accuracy else None,
        "mean_eps": record.mean("eps"),
        "mean_attack_steps": record.mean("attack_steps"),
        "mean_weight": record.mean("weight"),
        "passes_per_sample": record.passes / len(record),
        "images_per_second": len(record) / record.seconds,
        "seconds": record.seconds,
        "elapsed": progress.elapsed,
        "peak_memory_bytes": torch.cuda.max_memory_allocated()
        if on_cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "workers": session.world_size,
        "best": is_best,
    }


class _FiniteLoss:
    """Notices a loss that is not finite without waiting for the device at every step."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bad: list[torch.Tensor] = []
        self._seen = 0

    def see(self, loss: torch.Tensor, epoch: int, number: int) -> None:
        self._bad.append(~torch.isfinite(loss))
        if len(self._bad) == _STEPS_BETWEEN_CHECKS:
            self.check(epoch)

    def check(self, epoch: int) -> None:
        """Raises `UserError` on all workers if any of them has seen one since the last check."""
        bad, first = torch.stack(self._bad).float() if self._bad else None, self._seen
        self._seen += len(self._bad)
        self._bad = []
        if bad is None:
            return
        ranks = torch.zeros(self._session.world_size, len(bad), device=bad.device)
        ranks[self._session.rank] = bad
        ranks = sum_over_workers(ranks)
        if not bool(ranks.any()):
            return
        step = int(ranks.any(dim=0).float().argmax())
        rank = int(ranks[:, step].argmax())
        raise SharedUserError(
            f"the loss is not finite at epoch {epoch}, step {first + step}, rank {rank}; the last "
            "checkpoint is kept. A smaller optim.lr, train.clip_grad_norm, optim.warmup_epochs or "
            "train.precision float32 may help"
        )
