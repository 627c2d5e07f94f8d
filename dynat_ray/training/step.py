"""One optimiser step: attack, outer passes, backward, update, averaging."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import chosen_kernels, unchanged_statistics
from dynat_ray.acceleration.precision import autocast
from dynat_ray.acceleration.switch import may_use_cpu_kernels
from dynat_ray.acceleration.twin import settled_weights
from dynat_ray.barrier_time import working_time
from dynat_ray.collectives import sum_over_workers, world_size
from dynat_ray.config import TrainConfig
from dynat_ray.data import Batch
from dynat_ray.forward_units import Passes, backward_pass, counted, counting
from dynat_ray.methods import Method, MethodContext, MethodLoss, Prepared
from dynat_ray.methods.contract import checked_loss, checked_prepare
from dynat_ray.methods.each_norm import contexts_of, working_under
from dynat_ray.training.finiteness import LOSS, Look
from dynat_ray.training.running_statistics import RunningStatistics
from dynat_ray.training.weight_average import FiniteAverage
from dynat_ray.training.weight_perturbation import perturbed_weights

_LARGEST_NUMBER_OF_GRAPHS = 64
# How the columns of a record are called that are decisions and not measurements.
_DECISIONS = {"eps": "the budgets are", "weight": "the samples' weights are"}


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
    average: FiniteAverage | None

    @property
    def evaluated(self) -> nn.Module:
        """The network whose accuracy counts: the average where there is one."""
        return self.core if self.average is None else self.average.module


def wrap(core: nn.Module, config: TrainConfig) -> Networks:
    """Returns `core` wrapped for training; call it after the process group exists."""
    average = FiniteAverage(core, decay=config.ema_decay) if config.ema_decay else None
    if config.compile:
        # Modes, precisions and sizes of attacks and training give more graphs than the 8 of one
        # code that PyTorch allows before it goes on without compiling.
        torch._dynamo.config.recompile_limit = _LARGEST_NUMBER_OF_GRAPHS
    attacked = core
    if config.compile:
        attacked = counted(torch.compile(core, dynamic=False))  # type: ignore[arg-type]
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


@dataclass(frozen=True)
class StepOutcome:
    """What a step did.

    Attributes:
        loss: Mean loss of this worker's part, a scalar on the device.
        parts: The micro-batches; where losses of several norms are averaged, under the first.
        logits: Whether logits were finite.
        update: Whether gradients, weights and buffers were.
        passes: Passes through networks that this worker's part of it took.
    """

    loss: Tensor
    parts: list[StepPart]
    logits: Look
    update: Look
    passes: Passes

    def look(self) -> Look:
        """Returns whether all that the step computed was finite, in the order of computation."""
        columns = [
            (_DECISIONS.get(name, f"the samples' {name} is"), values)
            for part in self.parts
            for name, values in part.record.items()
        ]
        return self.logits.then(Look.at([*columns, (LOSS, self.loss)]), self.update)


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
        self._statistics = RunningStatistics(networks.core)

    @chosen_kernels()
    def step(self, batch: Batch, epoch: int, global_step: int, global_size: int) -> StepOutcome:
        """Attacks a batch and updates the weights once.

        Args:
            batch: This worker's part of the global batch.
            epoch: From 0; with the indices it keys the attack's noise.
            global_step: Steps before this one.
            global_size: Samples of the global batch.
        """
        with counting() as passes:
            self._statistics.keep()
            norms = contexts_of(self.method.context)
            prepared = self._attack(batch, epoch, global_size, norms)
            # DDP averages over workers, whose parts may differ by one sample.
            scale = world_size() / (global_size * len(norms))
            results, logits = self._learn(prepared, epoch, scale)
        update = self._update(global_step)
        parts = [StepPart(*pair) for pair in zip(prepared, results, strict=True)]
        losses = [part.result.loss * len(part.prepared.batch.labels) for part in parts]
        loss = torch.stack(losses).sum() / (len(batch.labels) * len(norms))
        return StepOutcome(loss, parts[:: len(norms)], logits, update, passes)

    def _attack(
        self, batch: Batch, epoch: int, global_size: int, norms: list[MethodContext]
    ) -> list[Prepared]:
        """Returns the micro-batches, each of them under all of `norms` before the next."""
        config, attacked = self.config, self.networks.attacked
        prepared = []
        with settled_weights(attacked), autocast(config.precision, self.device):
            for part in _micro_batches(batch, config.micro_batch_size, global_size):
                keys = keyed_random.combine(config.seed, epoch, part.indices)
                for context in norms:
                    with working_under(self.method, context):
                        prepared.append(checked_prepare(self.method, attacked, part, keys))
        return prepared

    def _learn(
        self, prepared: list[Prepared], epoch: int, scale: float
    ) -> tuple[list[MethodLoss], Look]:
        """Computes the gradients of the losses, times `scale` a sample.

        Returns:
            The losses, and whether all logits on the way were finite.
        """
        config, networks = self.config, self.networks
        networks.outer.train(self.method.outer_mode == "train")
        self.optimizer.zero_grad(set_to_none=True)

        logits: list[Look] = []

        def backward() -> list[MethodLoss]:
            results = self._backward(prepared, scale)
            logits.append(Look.of(self.method.take_seen()))
            return results

        # Gradients are reduced on the way back.
        with working_time.at_barrier():
            if config.awp_gamma > 0 and epoch >= config.awp_warmup_epochs:
                with perturbed_weights(networks.outer, config.awp_gamma, backward):
                    results = backward()
            else:
                results = backward()
        return results, logits[0].then(*logits[1:])

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
                with self._statistics_as_they_are(), backward_pass():
                    (loss * scale).backward()
            results.append(replace(result, loss=result.loss.detach()))
        return results

    def _update(self, global_step: int) -> Look:
        """Moves the weights along the gradients, and the averages after them.

        Gradients of which one is not finite move nothing.

        Returns:
            Whether gradients, weights and buffers were finite.
        """
        networks, extra = self.networks, self.method.extra
        _average_gradients(list(extra.parameters()))
        named = [*networks.core.named_parameters(), *extra.named_parameters()]
        parameters = [parameter for _, parameter in named]
        looks = [
            Look.at((f"the gradient of {n} is", p.grad) for n, p in named if p.grad is not None)
        ]
        _clear_unless(looks[0].finite.all(), parameters)
        if self.config.clip_grad_norm > 0:
            length = nn.utils.clip_grad_norm_(parameters, self.config.clip_grad_norm)
            looks.append(Look.at([("the length of the gradient is", length)]))
        self.optimizer.step()
        looks.append(Look.at((f"the weight {name} is", each) for name, each in named))
        looks.append(self._statistics.settle())
        if networks.average is not None:
            networks.average.update(networks.core, step=global_step)
        self.method.end_step(networks.core)
        return looks[0].then(*looks[1:])

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


def _clear_unless(finite: Tensor, parameters: list[nn.Parameter]) -> None:
    """Sets all gradients to 0 where `finite`, a bool, does not hold, without waiting."""
    if finite.device.type == "cpu" and bool(finite):
        return
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(~finite, 0.0)


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
