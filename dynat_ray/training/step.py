"""One optimiser step: attack, outer passes, backward, update, averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import chosen_kernels, unchanged_statistics
from dynat_ray.acceleration.switch import may_use_cpu_kernels
from dynat_ray.acceleration.twin import settled_weights
from dynat_ray.barrier_time import working_time
from dynat_ray.collectives import sum_over_workers, world_size
from dynat_ray.config import TrainConfig
from dynat_ray.data import Batch
from dynat_ray.methods import Method, MethodLoss, Prepared
from dynat_ray.methods.contract import checked_loss, checked_prepare
from dynat_ray.training.device import autocast
from dynat_ray.training.weight_perturbation import perturbed_weights

_LARGEST_NUMBER_OF_GRAPHS = 64


@dataclass
class Networks:
    """The same weights, as different parts of a step need them.

    Attributes:
        core: The classifier itself: what is saved and evaluated.
        attacked: What attacks run on: unwrapped (no gradient is reduced), compiled if asked for.
        outer: What is trained: wrapped for several workers.
        average: The weight average, or None.
    """

    core: nn.Module
    attacked: nn.Module
    outer: nn.Module
    average: ModelEmaV3 | None

    @property
    def evaluated(self) -> nn.Module:
        """The network whose accuracy counts: the average where there is one."""
        return self.core if self.average is None else self.average.module


def wrap(core: nn.Module, config: TrainConfig) -> Networks:
    """Returns `core` wrapped for training; call it after the process group exists."""
    average = (
        ModelEmaV3(core, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
    )
    if config.compile:
        # Modes, precisions and sizes of attacks and training give more graphs than the 8 of one
        # code that PyTorch allows before it goes on without compiling.
        torch._dynamo.config.recompile_limit = _LARGEST_NUMBER_OF_GRAPHS
    attacked: nn.Module = torch.compile(core, dynamic=False) if config.compile else core  # type: ignore[assignment]
    outer = attacked
    if world_size() > 1:
        # Buffers are averaged after each step instead: broadcasting them at every forward would
        # change them between the two forward passes of a KL loss.
        outer = DistributedDataParallel(
            outer, broadcast_buffers=False, gradient_as_bucket_view=True
        )
    return Networks(core, attacked, outer, average)


@dataclass(frozen=True)
class StepPart:
    """What became of a micro-batch.

    Attributes:
        prepared: Its attack.
        result: Its loss.
    """

    prepared: Prepared
    result: MethodLoss

    @property
    def record(self) -> dict[str, Tensor]:
        """Per-sample values `(B,)` of both, by column."""
        return {**self.prepared.record, **self.result.record}

    @property
    def passes(self) -> int:
        """Forward-backward passes of both, summed over the samples."""
        return self.prepared.passes + self.result.passes


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        loss: Mean loss of this worker's part, a scalar on the device.
        parts: The micro-batches.
    """

    loss: Tensor
    parts: list[StepPart]


class Stepper:
    """Runs optimiser steps.

    Args:
        networks: From `wrap`.
        method: How a batch becomes a loss.
        optimizer: Of the core's parameters.
        config: Precision, accumulation, clipping, AWP.
        device: Where it all is.
    """

    def __init__(
        self,
        networks: Networks,
        method: Method[Any],
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.networks = networks
        self.method = method
        self.optimizer = optimizer
        self.config = config
        self.device = device

    @chosen_kernels()
    def step(self, batch: Batch, epoch: int, global_step: int, global_size: int) -> StepOutcome:
        """Attacks a batch and updates the weights once.

        Args:
            batch: This worker's part of the global batch.
            epoch: From 0; with the indices it keys the attack's noise.
            global_step: Steps before this one.
            global_size: Samples of the global batch.
        """
        config, networks = self.config, self.networks
        # DDP averages over workers, whose parts may differ by one sample.
        scale = world_size() / global_size
        prepared: list[Prepared] = []
        with settled_weights(networks.attacked), autocast(config.precision, self.device):
            for part in _micro_batches(batch, config.micro_batch_size, global_size):
                keys = keyed_random.combine(config.seed, epoch, part.indices)
                prepared.append(checked_prepare(self.method, networks.attacked, part, keys))
        networks.outer.train(self.method.outer_mode == "train")
        self.optimizer.zero_grad(set_to_none=True)

        def backward() -> list[MethodLoss]:
            return self._backward(prepared, scale)

        # Gradients are reduced on the way back.
        with working_time.at_barrier():
            if config.awp_gamma > 0 and epoch >= config.awp_warmup_epochs:
                with perturbed_weights(networks.outer, config.awp_gamma, backward):
                    results = backward()
            else:
                results = backward()
        self._update(global_step)
        parts = [StepPart(*pair) for pair in zip(prepared, results, strict=True)]
        losses = [part.result.loss * len(part.prepared.batch.labels) for part in parts]
        return StepOutcome(torch.stack(losses).sum() / len(batch.labels), parts)

    def _backward(self, prepared: list[Prepared], scale: float) -> list[MethodLoss]:
        """Adds the gradients of all parts' losses, times `scale` a sample; returns the losses.

        They come detached: what a graph holds is free when this returns.
        """
        outer, results = self.networks.outer, []
        for parameter in self.method.extra.parameters():
            parameter.grad = None
        for number, part in enumerate(prepared, start=1):
            last = number == len(prepared)
            synchronised = last or not isinstance(outer, DistributedDataParallel)
            with (
                nullcontext() if synchronised else outer.no_sync(),  # type: ignore[operator]
                self._derivatives(),
            ):
                with autocast(self.config.precision, self.device):
                    result = checked_loss(self.method, outer, part)
                    loss = result.loss * len(part.batch.labels)
                with self._statistics_as_they_are():
                    (loss * scale).backward()
            results.append(replace(result, loss=result.loss.detach()))
        return results

    def _update(self, global_step: int) -> None:
        """Moves the weights along the gradients, and the averages after them."""
        networks, extra = self.networks, list(self.method.extra.parameters())
        _average_gradients(extra)
        if self.config.clip_grad_norm > 0:
            parameters = [*networks.core.parameters(), *extra]
            nn.utils.clip_grad_norm_(parameters, self.config.clip_grad_norm)
        self.optimizer.step()
        self._average_buffers()
        if networks.average is not None:
            networks.average.update(networks.core, step=global_step)

    def _derivatives(self) -> AbstractContextManager[object]:
        """Chooses what has second derivatives, which fused attention has not, or what is fast."""
        if self.method.differentiates_twice:
            return sdpa_kernel(SDPBackend.MATH)
        plain = self.config.compile or self.device.type != "cpu"
        # PyTorch leaves such contexts on the way back, when activations are computed again.
        again = self.config.activation_checkpointing
        if plain or again or not may_use_cpu_kernels():
            return nullcontext()
        from dynat_ray.acceleration import cpu  # the folder may be gone

        return cpu.fast_gradients()

    def _statistics_as_they_are(self) -> AbstractContextManager[None]:
        checkpointing = self.config.activation_checkpointing
        return unchanged_statistics(self.networks.core) if checkpointing else nullcontext()

    def _average_buffers(self) -> None:
        """Makes running statistics the same on all workers, in one reduction."""
        if world_size() == 1:
            return
        buffers = [b for b in self.networks.core.buffers() if b.is_floating_point()]
        if not buffers:
            return
        mean = sum_over_workers(torch.cat([buffer.flatten() for buffer in buffers])) / world_size()
        for buffer, values in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Does for a method's own networks what DDP does for the classifier, in one reduction."""
    # Without a gradient the optimiser leaves a parameter alone. Which ones have none depends on
    # the epoch, so it is the same on all workers.
    parameters = [p for p in parameters if p.grad is not None]
    if world_size() == 1 or not parameters:
        return
    own = [p.grad.flatten() for p in parameters if p.grad is not None]
    mean = sum_over_workers(torch.cat(own)) / world_size()
    for parameter, values in zip(
        parameters, mean.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = values.view_as(parameter)


def _micro_batches(batch: Batch, largest: int, global_size: int) -> Iterator[Batch]:
    """Cuts a batch into parts of at most about `largest` samples, as many on every worker."""
    if largest == 0:
        yield batch
        return
    # Every worker must come to the same count, though their parts may differ by one sample. Batch
    # normalisation needs two samples, where `largest` allows them.
    per_worker, least = math.ceil(global_size / world_size()), min(2, largest)
    count = min(math.ceil(per_worker / largest), max(1, global_size // world_size() // least))
    for places in torch.arange(len(batch.labels), device=batch.labels.device).tensor_split(count):
        yield Batch(
            images=batch.images[places],
            labels=batch.labels[places],
            indices=batch.indices[places],
            targets=None if batch.targets is None else batch.targets[places],
            carried=None if batch.carried is None else batch.carried[places],
        )
