"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import nn

from dynat_ray.config import OptimConfig
from dynat_ray.errors import unknown_name
from dynat_ray.models import Classifier
from dynat_ray.training.how_far import HowFar

# Where one-cycle reaches its peak, and what it starts from and ends at, as parts of the peak.
_ONE_CYCLE_PEAK = 0.4
_ONE_CYCLE_START = 0.05


def build_optimizer(
    network: nn.Module,
    config: OptimConfig,
    extra: nn.Module | None = None,
    extra_rate: float = 1.0,
) -> torch.optim.Optimizer:
    """Returns timm's optimiser of that name.

    Biases, normalisation and what the network itself spares go without weight decay.

    Args:
        network: What is trained.
        config: Name, rate, momentum, decay.
        extra: Other networks that are trained along, in parameter groups of their own.
        extra_rate: Their learning rate, as a part of `network`'s.

    Raises:
        UserError: timm has no such optimiser.
    """
    known = [str(name) for name in list_optimizers()]
    if config.name not in known:
        raise unknown_name("optimiser (optim.name)", config.name, known)
    plain = config.layer_decay == config.head_lr_ratio == 1
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        network if plain else _scaled_groups(network, config),
        opt=config.name,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    for group in param_groups_weight_decay(extra or nn.Module(), config.weight_decay):
        if group["params"]:
            optimizer.add_param_group({**group, "lr_scale": extra_rate})
    # timm hands momentum only to optimisers that call it so.
    for group in optimizer.param_groups:
        if "betas" in group and "momentum" not in group:
            group["betas"] = (config.momentum, *group["betas"][1:])
    return optimizer


def _scaled_groups(network: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Returns parameter groups whose rates follow their layer, and the classifier's its own.

    Layers and their rates are timm's (as in BEiT, Bao et al. 2022).
    """
    assert isinstance(network, Classifier)
    backbone = network.backbone
    spared: Callable[[], Iterable[str]] = getattr(backbone, "no_weight_decay", tuple)  # type: ignore[assignment]
    groups = param_groups_layer_decay(
        backbone,
        config.weight_decay,
        no_weight_decay_list=set(spared()),
        layer_decay=config.layer_decay,
    )
    heads = network.head_names()
    of_head = {id(each) for name, each in backbone.named_parameters() if name in heads}
    scaled: list[dict[str, Any]] = []
    for group in groups:
        for ratio, inside in ((1.0, False), (config.head_lr_ratio, True)):
            if own := [each for each in group["params"] if (id(each) in of_head) == inside]:
                scale = group["lr_scale"] * ratio
                scaled.append({**group, "params": own, "lr_scale": scale})
    return scaled


def learning_rate(config: OptimConfig, how_far: HowFar) -> float:
    """Returns the learning rate at a point of the run; it depends on nothing else.

    `cosine` and `one-cycle` go on from the peak where the warm-up ends. Without a warm-up
    `one-cycle` has one of its own.

    Args:
        config: Schedule and peak rate.
        how_far: The point.
    """
    progress = how_far.share
    if how_far.epochs < config.warmup_epochs:
        return config.lr * (how_far.epochs + 1e-3) / (config.warmup_epochs + 1e-3)
    if config.schedule == "piecewise":
        return config.lr * config.decay ** sum(progress >= mark for mark in config.milestones)
    warm = config.warmup_epochs / how_far.all_epochs
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
    if config.schedule == "one-cycle":
        peak = warm or _ONE_CYCLE_PEAK
        if progress < peak:
            rise = progress / peak
            return config.lr * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * rise)
        return config.lr * (1 - progress) / (1 - peak)
    return config.lr


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every group, times the group's own `lr_scale` where timm gave one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
