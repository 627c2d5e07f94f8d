"""Mistakes that all workers must hear of, so that none waits for another that has stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from dynat_ray.collectives import rank, sum_over_workers, world_size
from dynat_ray.errors import UserError

# Steps between two looks at whether the loss is still finite (each waits for the device).
_STEPS_BETWEEN_CHECKS = 20
_ADVICE = (
    "the last checkpoint is kept. A smaller optim.lr, train.clip_grad_norm, optim.warmup_epochs or "
    "train.precision float32 may help"
)

ResultT = TypeVar("ResultT")


class SharedUserError(UserError):
    """A user's mistake that every worker has seen and raises alike; trying again won't help."""


def on_all_workers(build: Callable[[], ResultT]) -> ResultT:
    """Runs `build`; a `UserError` of one worker is raised on all, so that none waits for ever."""
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


def require_finite_weights(network: nn.Module) -> None:
    """Raises `SharedUserError` if a weight is not finite: nothing could go on from it.

    Every worker has the same weights, so that all raise alike.
    """
    finite = [parameter.detach().isfinite().all() for parameter in network.parameters()]
    if not bool(torch.stack(finite).all()):
        raise SharedUserError(f"the weights are not finite; {_ADVICE}")


class FiniteLossWatch:
    """Notices a loss that is not finite without waiting for the device at every step.

    Args:
        first_step: Number of the first step it sees.
    """

    def __init__(self, first_step: int) -> None:
        self._bad: list[torch.Tensor] = []
        self._seen = first_step

    def see(self, loss: torch.Tensor, epoch: int) -> None:
        """Takes in a step's loss, a scalar on the device; checks every few steps."""
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
        ranks = torch.zeros(world_size(), len(bad), device=bad.device)
        ranks[rank()] = bad
        ranks = sum_over_workers(ranks)
        if not bool(ranks.any()):
            return
        step = int(ranks.any(dim=0).float().argmax())
        where = int(ranks[:, step].argmax())
        raise SharedUserError(
            f"the loss is not finite at epoch {epoch}, step {first + step}, rank {where}; {_ADVICE}"
        )
