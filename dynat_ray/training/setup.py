"""What a worker needs before the first step, built from the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dynat_ray.config import RunConfig
from dynat_ray.data import (
    Augmentation,
    BatchPlan,
    DatasetInfo,
    ExtraImages,
    Loader,
    ReadingOptions,
    balanced_subset,
    build_loader,
    load_info,
    load_labels,
    loader_kind,
    stratified_split,
    unevenness,
)
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.methods import Method, MethodContext, build_method
from dynat_ray.models import Classifier, build_model, freeze, initialise_from
from dynat_ray.perturb.threat import Threat
from dynat_ray.training.carrying import CarriedPerturbations, check_carrying
from dynat_ray.training.optimisation import build_optimizer
from dynat_ray.training.resolution import check_first_size
from dynat_ray.training.run_writer import RunWriter
from dynat_ray.training.session import Session

# A set that is stored class by class has 1 and more, one in random order about 0.
_MOST_UNEVEN = 0.25


@dataclass
class TrainingSetup:
    """What a worker needs before the first step."""

    info: DatasetInfo
    train_loader: Loader
    validation_loader: Loader | None
    augmentation: Augmentation
    model: Classifier
    method: Method[Any]
    writer: RunWriter
    carried: CarriedPerturbations | None

    def close(self) -> None:
        """Stops the loaders and the writer."""
        self.train_loader.close()
        if self.validation_loader is not None:
            self.validation_loader.close()
        self.writer.close()


def build_setup(config: RunConfig, session: Session, share: int) -> TrainingSetup:
    """Returns everything built on the worker's device; raises `UserError` for what can't be.

    Args:
        config: The run.
        session: This worker's.
        share: Which part of every batch is its own, from `fetch_data`.
    """
    data = config.data
    info = load_info(data.path)
    labels = load_labels(data.path, "train").numpy()
    training, validation = split_training(config, labels)
    workers = session.world_size
    train_loader = _build_train_loader(
        config, training, training_plan(config, share, workers), session.device
    )
    validation_loader = (
        build_validation_loader(
            config, validation, device=session.device, rank=share, world_size=workers
        )
        if len(validation)
        else None
    )
    model = build_network(config, info)
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    model = model.to(device=session.device, memory_format=memory_format)  # type: ignore[call-overload]
    augmentation, method = _build_parts(config, info, model)
    writer = RunWriter(session.run_folder, info.counts["train"])
    carried = (
        CarriedPerturbations(config, info, augmentation, session.device)
        if config.attack.carry_epochs
        else None
    )
    return TrainingSetup(
        info, train_loader, validation_loader, augmentation, model, method, writer, carried
    )


def training_plan(config: RunConfig, rank: int, world_size: int) -> BatchPlan:
    """Returns how the images that train make batches, and which share of these is a worker's.

    Args:
        config: The run.
        rank: Number of the share.
        world_size: How many shares there are.
    """
    return BatchPlan(
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        balance=config.data.balance,
        node_share="part" if config.data.node_share == "part" else "all",
        rank=rank,
        world_size=world_size,
    )


def validation_plan(config: RunConfig, rank: int, world_size: int) -> BatchPlan:
    """Returns the same of the images held out for validation, which come in their order."""
    plan = training_plan(config, rank, world_size)
    size = config.eval.batch_size * world_size
    return replace(plan, batch_size=size, shuffle=False, balance=False)


def _build_train_loader(
    config: RunConfig, training: NDArray[np.int64], plan: BatchPlan, device: torch.device
) -> Loader:
    data = config.data
    options = replace(_reading_options(config, device), resized_crop="resized-crop" in data.augment)
    extra = ExtraImages(data.extra_path, data.extra_fraction) if data.extra_path else None
    return build_loader(data.path, "train", training, plan, options, extra)


def build_validation_loader(
    config: RunConfig,
    held_out: NDArray[np.int64],
    *,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Loader:
    """Returns a loader of a worker's part of the images held out for validation, in their order.

    Args:
        config: The run.
        held_out: Positions of all of them in the training set, from `split_training`.
        device: Where images go.
        rank: Number of the part.
        world_size: How many share them.
    """
    plan = validation_plan(config, rank, world_size)
    return build_loader(config.data.path, "train", held_out, plan, _reading_options(config, device))


def _reading_options(config: RunConfig, device: torch.device) -> ReadingOptions:
    return ReadingOptions(
        device=device,
        kind=config.data.loader,
        streamed=config.data.node_share == "stream",
        threads=config.data.loader_threads,
        channels_last=config.train.channels_last,
        image_size=config.data.image_size,
    )


def split_training(
    config: RunConfig, labels: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns which images of the training set train, and which are held out for validation.

    Args:
        config: For `data.limit`, `data.val_fraction` and the seed.
        labels: Of the whole training set, `(N,)`.

    Returns:
        Sorted positions of each, int64.
    """
    seed = config.train.seed
    everything = balanced_subset(labels, config.data.limit or len(labels), seed=seed)
    if config.data.val_fraction == 0:
        return everything, everything[:0]
    chosen, held_out = stratified_split(labels[everything], config.data.val_fraction, seed=seed)
    return everything[chosen], everything[held_out]


def check_run(
    config: RunConfig, info: DatasetInfo, say: Callable[[str], None] | None = None
) -> str:
    """Raises `UserError` for what can't work, before any worker starts.

    Args:
        config: The run.
        info: Of its data set.
        say: Takes sentences that a user should know of the first weights.

    Returns:
        The loader that `data.loader` stands for here.
    """
    kind = _check_loaders(config.data)
    _check_mixing(config, load_labels(config.data.path, "train").numpy())
    model = build_network(config, info, say)
    augmentation, method = _build_parts(config, info, model)
    _check_smallest_batch(config, model)
    if config.data.first_image_size:
        check_first_size(config.data, model)
    if config.attack.carry_epochs and config.threat.norms:
        raise UserError("attack.carry_epochs is for one norm; leave out threat.norms or it")
    if config.attack.carry_epochs:
        check_carrying(config, info, augmentation)
    build_optimizer(
        model,
        config.optim,
        method.extra,
        method.extra_learning_rate_ratio,
    )
    if config.train.compile and method.differentiates_twice:
        raise UserError(
            f"method '{config.method.name}' takes gradients of gradients, which compiled graphs "
            "can't; set train.compile to false"
        )
    return kind


def _check_loaders(data: DataConfig) -> str:
    """Returns the loader of the images; raises `UserError` where they, or extra ones, have none."""
    streamed, places = data.node_share == "stream", filter(None, (data.extra_path, data.path))
    return [loader_kind(each, data.loader, streamed=streamed) for each in places][-1]


def _check_mixing(config: RunConfig, labels: NDArray[np.integer]) -> None:
    """Raises `UserError` where workers that read parts of a set would see a few classes alone."""
    _, workers = config.cluster.worker_range() or (2, 2)
    if config.data.node_share != "part" or workers == 1:
        return
    training, _ = split_training(config, labels)
    shares = np.arange(len(training)) * workers // len(training)
    if unevenness(labels[training], shares) > _MOST_UNEVEN:
        raise UserError(
            f"the training images of {config.data.path} are stored class by class, so that with "
            "data.node_share part a worker would see a few of the classes alone; prepare them "
            "again with --shuffle, or set data.node_share to all"
        )


def _check_smallest_batch(config: RunConfig, model: Classifier) -> None:
    _, workers = config.cluster.worker_range() or (1, 1)
    share = config.smallest_share(workers)
    if min(share, config.train.micro_batch_size or share) > 1:
        return
    try:
        with torch.no_grad():
            model.train()(torch.zeros(1, model.channels, *model.size))
    except ValueError:
        raise UserError(
            f"batch normalisation of model '{model.name}' needs two samples on every worker at "
            f"once: set train.batch_size to {2 * workers} or more, and train.micro_batch_size to 2 "
            "or more, or to 0"
        ) from None


def build_network(
    config: RunConfig, info: DatasetInfo, say: Callable[[str], None] | None = None
) -> Classifier:
    """Returns the run's network on the CPU with its first weights, the same on all workers.

    Args:
        config: The run.
        info: Of its data set.
        say: Takes sentences that a user should know of these weights.

    Raises:
        UserError: There is none such.
    """
    if config.model.pretrained and config.model.init_from:
        raise UserError("model.pretrained and model.init_from exclude each other; give one")
    # The same first weights on all workers, whatever their other random numbers are.
    with _seeded(config.train.seed):
        model = build_model(
            config.model.name,
            num_classes=info.num_classes,
            channels=info.channels,
            size=info.size_at(config.data.image_size),
            mean=info.mean,
            # A channel that never changes has no spread to divide by.
            std=[max(deviation, 1 / 255) for deviation in info.std],
            kwargs=config.model.kwargs,
            pretrained=config.model.pretrained,
        )
    model.label_names = tuple(info.classes)
    if config.model.init_from:
        for note in initialise_from(model, config.model.init_from):
            if say is not None:
                say(note)
    freeze(model, config.model.freeze)
    return model


def _build_parts(
    config: RunConfig, info: DatasetInfo, model: Classifier
) -> tuple[Augmentation, Method[Any]]:
    context = MethodContext(
        threat=Threat(config.threat.norm, config.threat.eps),
        attack=config.attack,
        step_size=config.step_size(),
        classes=info.num_classes,
        label_smoothing=config.train.label_smoothing,
        training_samples=info.counts["train"],
        starts_trained=config.model.pretrained or bool(config.model.init_from),
        growth=config.threat,
        further=tuple(Threat(norm, eps) for norm, eps in config.threat.further().items()),
    )
    augmentation = Augmentation(config.data.augment, config.train.seed)
    method = build_method(config.method, context)
    # Its own networks start alike on all workers, too.
    with _seeded(config.train.seed):
        method.attach(model)
    return augmentation, method


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds what is drawn on the CPU, for a while; asking GPUs too would open a context on each."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def checkpoint_activations(model: Classifier) -> None:
    """Makes a classifier keep activations at the borders of its blocks only, by timm.

    The others are computed again on the way back (Chen et al. 2016).

    Raises:
        UserError: The architecture can't.
    """
    try:
        model.backbone.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise UserError(
            f"{model.name} has no activation checkpointing; leave out "
            "train.activation_checkpointing, or set train.micro_batch_size to save memory"
        ) from None
