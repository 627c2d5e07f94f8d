"""Values that are not finite: noticed without waiting for the device, named, and never saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynat_ray.collectives import rank, sum_over_workers, world_size
from dynat_ray.errors import UserError
from dynat_ray.training.agreement import SharedUserError, on_all_workers

# Steps between two looks at what is not finite (each waits for the device).
_STEPS_BETWEEN_CHECKS = 20
ADVICE = (
    "the last checkpoint is kept. A smaller optim.lr, train.clip_grad_norm, optim.warmup_epochs or "
    "train.precision float32 may help"
)
LOSS = "the loss is"
# The parts of a run's state that training computes, as they are called in a sentence.
_COMPUTED = {
    "model": "the model's",
    "average": "the weight average's",
    "optimizer": "the optimiser's",
    "method": "the method's",
    "extra": "the method's",
    "carried": "the carried perturbations'",
    "record": "the samples' record's",
    "best_weights": "the best model's",
    "waiting": "an epoch that waits for validation:",
}


def finite_flags(tensors: Sequence[Tensor]) -> Tensor:
    """Returns for each tensor whether all of its values are finite, bool `(n,)`, without waiting.

    One number of each tells: a value that is not finite makes the sum of all so. (So do numbers
    whose sum overflows, which no training survives.)

    Args:
        tensors: Floating-point tensors of one device, at least one, none of them empty.
    """
    tensors = [tensor.detach() for tensor in tensors]
    if tensors[0].device.type == "cpu":
        sums = [tensor.sum() for tensor in tensors]
    else:
        # In few launches for all of them together.
        sums = list(torch._foreach_norm(tensors, 1))
    return torch.stack([each.float() for each in sums]).isfinite()


@dataclass(frozen=True)
class Look:
    """Whether what a step computes is finite, in the order in which it is computed.

    Attributes:
        names: What was looked at, as a sentence about it begins, such as `the loss is`.
        finite: For each of them whether all of its values are, bool `(n,)`, on the device.
    """

    names: tuple[str, ...]
    finite: Tensor

    @classmethod
    def at(cls, values: Iterable[tuple[str, Tensor]]) -> Look:
        """Looks at tensors by name; whole numbers are left out."""
        seen = [(name, each) for name, each in values if each.is_floating_point() and each.numel()]
        if not seen:
            return cls((), torch.ones(0, dtype=torch.bool))
        names, tensors = zip(*seen, strict=True)
        return cls(names, finite_flags(tensors))

    @classmethod
    def of(cls, flags: Mapping[str, Tensor]) -> Look:
        """Takes bool scalars by name, each of which says whether something is finite."""
        if not flags:
            return cls((), torch.ones(0, dtype=torch.bool))
        return cls(tuple(flags), torch.stack(list(flags.values())))

    def then(self, *later: Look) -> Look:
        """Returns this and what was looked at later, together."""
        looks = [look for look in (self, *later) if look.names] or [self]
        names = tuple(name for look in looks for name in look.names)
        return Look(names, torch.cat([look.finite for look in looks]))


class FiniteWatch:
    """Notices what is not finite without waiting for the device at every step.

    Args:
        first_step: Number of the first step it sees.
    """

    def __init__(self, first_step: int) -> None:
        self._looks: list[Look] = []
        self._seen = first_step

    def see(self, look: Look, epoch: int) -> None:
        """Takes in a step's look, of the same things on all workers; checks every few steps."""
        self._looks.append(look)
        if len(self._looks) == _STEPS_BETWEEN_CHECKS:
            self.check(epoch)

    def check(self, epoch: int) -> None:
        """Raises if any worker has seen something that is not finite since the last check.

        Raises:
            SharedUserError: It names the epoch, the step, the rank and what was not finite; the
                same on all workers.
        """
        looks, first = self._looks, self._seen
        self._looks, self._seen = [], first + len(looks)
        if not looks:
            return
        # What comes of a value that is not finite reaches other workers and other things in the
        # same step; where it was first is where it comes from.
        own = torch.stack([_places(look) for look in looks], dim=1)
        places = torch.zeros(world_size(), *own.shape, device=own.device)
        places[rank()] = own
        places = sum_over_workers(places)
        if not bool(places.any()):
            return
        firsts, losses = places.cpu().unbind(dim=1)
        step = int(firsts.any(dim=0).float().argmax())
        column = torch.where(firsts[:, step] > 0, firsts[:, step], math.inf)
        what, where = looks[step].names[int(column.min()) - 1], int(column.argmin())
        at = f"not finite at epoch {epoch}, step {first + step}, rank {where}"
        if what != LOSS and bool(losses[:, step].any()):
            what, at = LOSS, f"{at}; before that, {what} not"
        raise SharedUserError(f"{what} {at}; {ADVICE}")


def require_finite_state(state: dict[str, Any]) -> None:
    """Raises `SharedUserError` on all workers if a run's state on one holds what is not finite.

    Args:
        state: From `collect_state`.
    """

    def require() -> bool:
        if found := find_not_finite(state):
            raise UserError(f"{found} is not finite; {ADVICE}")
        return True

    on_all_workers(require)


def find_not_finite(state: dict[str, Any]) -> str:
    """Returns the name of the first entry of a run's state that is not finite; empty: all are."""
    entries = [
        (f"{owner} {name}", value)
        for part, owner in _COMPUTED.items()
        for name, value in _numbers(state.get(part))
    ]
    bad = {name for name, value in entries if isinstance(value, float) and not math.isfinite(value)}
    tensors = [(name, value) for name, value in entries if isinstance(value, Tensor)]
    for device in {value.device for _, value in tensors}:
        there = [(name, value) for name, value in tensors if value.device == device]
        flags = finite_flags([value for _, value in there]).tolist()
        suspects = [each for each, finite in zip(there, flags, strict=True) if not finite]
        bad |= {name for name, value in suspects if not bool(value.isfinite().all())}
    return next((name for name, _ in entries if name in bad), "")


def _places(look: Look) -> Tensor:
    """Returns the place, from 1, of the first that is not finite, and of the loss; 0: it is."""
    bad = ~look.finite
    first = torch.where(bad.any(), bad.float().argmax() + 1, 0)
    place = look.names.index(LOSS)
    return torch.stack([first, bad[place] * (place + 1)]).float()


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, Tensor | float]]:
    """Yields what nested dicts and lists hold that could be not finite, with its name."""
    if isinstance(value, float) or (
        isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            yield from _numbers(each, f"{name}.{key}" if name else str(key))
