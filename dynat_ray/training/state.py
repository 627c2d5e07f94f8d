"""Everything a run needs to go on: collected for a checkpoint, put back from one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynat_ray.collectives import gather_objects
from dynat_ray.errors import UserError
from dynat_ray.training.checkpoint_content import require_alike, require_fitting_optimizer
from dynat_ray.training.finiteness import find_not_finite
from dynat_ray.training.setup import TrainingSetup
from dynat_ray.training.step import Networks
from dynat_ray.training.telemetry import EpochRecord

# What the settings decide in an optimiser's groups, and a resumed run may change.
_OPTIMIZER_SETTINGS = ("weight_decay", "momentum", "betas", "lr_scale")
# How parts of a run refuse a state that is another's, or no state at all.
_MISFITS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)


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
class WaitingEpoch:
    """An epoch that is trained, and whose line in the metrics waits for its validation.

    Attributes:
        line: What is known of it already.
        weights: What is to be validated: state of the evaluated network, on the CPU; empty where
            nothing is.
    """

    line: dict[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch: Epochs done.
        step: Steps done of the epoch after them.
        record: What rank 0 has gathered of these steps, None where there are none.
        global_step: Optimiser steps done.
        units: Units of compute that all workers have spent (`dynat_ray.forward_units`).
        units_before: Those that were spent when the epoch began.
        elapsed: Seconds of training done, restarts left out.
        best: The best model so far, on rank 0.
        waiting: Epochs whose validation is not done, oldest first, on rank 0.
        most_attacked: Largest share of samples, in percent, that an epoch's attacks have changed.
        attacks_stopped: The user was told that there are none any more.
    """

    epoch: int = 0
    step: int = 0
    record: EpochRecord | None = None
    global_step: int = 0
    units: int = 0
    units_before: int = 0
    elapsed: float = 0.0
    best: BestModel = field(default_factory=BestModel)
    waiting: list[WaitingEpoch] = field(default_factory=list)
    most_attacked: float = 0.0
    attacks_stopped: bool = False


def collect_state(
    progress: Progress,
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    setup: TrainingSetup,
) -> dict[str, Any]:
    """Returns the state of the run. Every worker must call it: some of it is gathered."""
    average, method, carried = networks.average, setup.method, setup.carried
    return {
        "data": setup.info.checksum,
        "epoch": progress.epoch,
        "step": progress.step,
        "epoch_steps": setup.train_loader.steps,
        "record": None if progress.record is None else progress.record.state_dict(),
        "global_step": progress.global_step,
        "units": progress.units,
        "units_before": progress.units_before,
        "elapsed": progress.elapsed,
        "best_score": list(progress.best.score),
        "best_epoch": progress.best.epoch,
        "best_weights": progress.best.weights,
        "waiting": [vars(each) for each in progress.waiting],
        "most_attacked": progress.most_attacked,
        "attacks_stopped": progress.attacks_stopped,
        "model": networks.core.state_dict(),
        "average": None if average is None else average.module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "method": method.state_dict(),
        "extra": method.extra.state_dict(),
        "carried": None if carried is None else carried.state_dict(),
        "random": _gather_random_states(_device_of(networks)),
    }


def restore_state(
    state: dict[str, Any],
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    setup: TrainingSetup,
    rank: int,
) -> tuple[Progress, str]:
    """Puts a state back in place.

    Returns:
        Where the run is, and what to tell the user of it, if anything.

    Raises:
        UserError: The checkpoint is of another model, optimiser, method or data set, or holds
            what is not finite.
    """
    if state["data"] != setup.info.checksum:
        raise UserError(
            "the data set is not the one that the run began with (was its folder prepared again?); "
            "give the run a new --name"
        )
    if found := find_not_finite(state):
        raise UserError(
            f"{found} is not finite in the checkpoint, so that nothing can go on from it; give the "
            "run a new --name"
        )
    try:
        _restore_weights(state, networks, optimizer, setup)
        _restore_random_state(state["random"], rank, _device_of(networks))
        progress = _progress_of(state)
    except _MISFITS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            "the checkpoint does not fit the settings (model, optimiser, method or weight average "
            f"were changed?): {reason}; give the run a new --name"
        ) from None
    if progress.step and state["epoch_steps"] != setup.train_loader.steps:
        progress.step, progress.record = 0, None
        return progress, (
            f"epoch {progress.epoch + 1} begins anew: it had {state['epoch_steps']} steps and now "
            f"has {setup.train_loader.steps}"
        )
    return progress, ""


def _restore_weights(
    state: dict[str, Any],
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    setup: TrainingSetup,
) -> None:
    """Puts back what is learnt and remembered; the optimiser's settings stay the config's."""
    method, carried = setup.method, setup.carried
    groups = [
        {name: group[name] for name in _OPTIMIZER_SETTINGS if name in group}
        for group in optimizer.param_groups
    ]
    require_fitting_optimizer(state["optimizer"], optimizer)
    networks.core.load_state_dict(state["model"])
    if networks.average is not None:
        # A run that adds averaging when it is resumed starts it from the current weights.
        networks.average.module.load_state_dict(state["average"] or state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        group.update(settings)
    method.load_state_dict(state["method"])
    method.extra.load_state_dict(state["extra"])
    if carried is not None and state["carried"] is not None:
        carried.load_state_dict(state["carried"])
    kept = [state["best_weights"], *(each["weights"] for each in state["waiting"])]
    for weights in filter(None, kept):
        require_alike(weights, networks.evaluated.state_dict())


def _restore_random_state(states: list[dict[str, Tensor]], rank: int, device: torch.device) -> None:
    # With another number of workers the new ones go on with the streams there are.
    own = states[rank % len(states)]
    torch.set_rng_state(own["cpu"])
    if device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], device)


def _progress_of(state: dict[str, Any]) -> Progress:
    record = None if state["record"] is None else EpochRecord.from_state_dict(state["record"])
    return Progress(
        epoch=state["epoch"],
        step=state["step"],
        record=record,
        global_step=state["global_step"],
        units=state["units"],
        units_before=state["units_before"],
        elapsed=state["elapsed"],
        best=BestModel(tuple(state["best_score"]), state["best_epoch"], state["best_weights"]),
        waiting=[WaitingEpoch(each["line"], each["weights"]) for each in state["waiting"]],
        most_attacked=float(state.get("most_attacked", 0.0)),
        attacks_stopped=bool(state.get("attacks_stopped", False)),
    )


def weights_on_cpu(network: torch.nn.Module) -> dict[str, Tensor]:
    """Returns a copy of a network's state on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


def _device_of(networks: Networks) -> torch.device:
    return next(networks.core.parameters()).device


def _gather_random_states(device: torch.device) -> list[dict[str, Tensor]]:
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    return gather_objects(own)
