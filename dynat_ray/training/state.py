"""Everything a run needs to go on: collected for a checkpoint, put back from one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dynat_ray.collectives import world_size
from dynat_ray.errors import UserError
from dynat_ray.methods import Method
from dynat_ray.training.carrying import CarriedPerturbations
from dynat_ray.training.step import Networks
from dynat_ray.training.telemetry import EpochRecord


@dataclass
class BestModel:
    """The weights with the best accuracy on the validation split so far.

    Attributes:
        score: Accuracies in percent, in the order in which the method compares them.
        epoch: When.
        weights: State of the evaluated network, on the CPU.
    """

    score: tuple[float, float] = (-1.0, -1.0)
    epoch: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: Epochs done.
        step: Steps done of the epoch after them.
        record: What rank 0 has gathered of these steps, None where there are none.
        global_step: Optimiser steps done.
        elapsed: Seconds of training done, restarts left out.
        best: The best model so far.
    """

    epoch: int = 0
    step: int = 0
    record: EpochRecord | None = None
    global_step: int = 0
    elapsed: float = 0.0
    best: BestModel = field(default_factory=BestModel)


def collect_state(
    progress: Progress,
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    method: Method[Any],
    carried: CarriedPerturbations | None,
) -> dict[str, Any]:
    """Returns the state of the run. Every worker must call it: some of it is gathered."""
    average = networks.average
    return {
        "epoch": progress.epoch,
        "step": progress.step,
        "record": None if progress.record is None else progress.record.state_dict(),
        "global_step": progress.global_step,
        "elapsed": progress.elapsed,
        "best_score": list(progress.best.score),
        "best_epoch": progress.best.epoch,
        "best_weights": progress.best.weights,
        "model": networks.core.state_dict(),
        "average": None if average is None else average.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "method": method.state_dict(),
        "extra": method.extra.state_dict(),
        "carried": None if carried is None else carried.state_dict(),
        "random": _gather_random_states(),
    }


def restore_state(
    state: dict[str, Any],
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    method: Method[Any],
    carried: CarriedPerturbations | None,
    rank: int,
) -> Progress:
    """Puts a state back in place and returns where the run is.

    Raises:
        UserError: The checkpoint is of another model, optimiser or method.
    """
    try:
        networks.core.load_state_dict(state["model"])
        if networks.average is not None:
            # A run that adds averaging when it is resumed starts it from the current weights.
            networks.average.module.load_state_dict(state["average"] or state["model"])
        optimizer.load_state_dict(state["optimizer"])
        method.load_state_dict(state["method"])
        method.extra.load_state_dict(state["extra"])
        if carried is not None and state["carried"] is not None:
            carried.load_state_dict(state["carried"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            "the checkpoint does not fit the settings (model, optimiser, method or weight average "
            f"were changed?): {str(error).splitlines()[0]}; give the run a new --name"
        ) from None
    # With another number of workers the new ones go on with the streams there are.
    random_states = state["random"][rank % len(state["random"])]
    torch.set_rng_state(random_states["cpu"])
    if torch.cuda.is_available() and "cuda" in random_states:
        torch.cuda.set_rng_state(random_states["cuda"])
    best = BestModel(tuple(state["best_score"]), state["best_epoch"], state["best_weights"])
    record = None if state["record"] is None else EpochRecord.from_state_dict(state["record"])
    return Progress(
        epoch=state["epoch"],
        step=state["step"],
        record=record,
        global_step=state["global_step"],
        elapsed=state["elapsed"],
        best=best,
    )


def weights_on_cpu(network: torch.nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a network's state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _gather_random_states() -> list[dict[str, Tensor]]:
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    if world_size() == 1:
        return [own]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, own)
    return everyone
