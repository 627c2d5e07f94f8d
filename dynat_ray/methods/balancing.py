"""Attacks whose samples are dealt evenly over the workers.

A step ends when its slowest worker does. Where some samples have no budget, workers differ in how
many they attack; so each attacks as many, its own or others', and gives others' back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dynat_ray.collectives import exchange_rows, gather_number, rank, world_size
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import AttackOutcome
from dynat_ray.perturb.several_norms import SeveralNorms


@dataclass(frozen=True)
class Moves:
    """Who attacks for whom.

    Attributes:
        sent: How many of this worker's samples each worker attacks, by rank.
        received: How many of each worker's samples this one attacks, by rank.
        anywhere: Whether any worker sends any.
    """

    sent: list[int]
    received: list[int]
    anywhere: bool


def even_moves(counts: Sequence[int], rank: int) -> Moves:
    """Returns the fewest moves after which the workers' counts differ by one at most.

    Args:
        counts: How many samples each worker has to attack, by rank.
        rank: Whose moves.
    """
    had = np.array(counts)
    least, remainder = divmod(int(had.sum()), len(had))
    has = np.full_like(had, least)
    # One more stays with those who have most.
    has[np.argsort(-had, kind="stable")[:remainder]] += 1
    given, taken = (had - has).clip(min=0), (has - had).clip(min=0)
    return Moves(_opposite(given, taken, rank), _opposite(taken, given, rank), bool(given.any()))


def _opposite(own: NDArray[np.int64], others: NDArray[np.int64], rank: int) -> list[int]:
    """Returns how much of each of `others` lies opposite `own[rank]`.

    Both are lengths with the same sum, laid end to end in two rows beside each other.
    """
    end, ends = own[: rank + 1].sum(), others.cumsum()
    overlap = np.minimum(end, ends) - np.maximum(end - own[rank], ends - others)
    counts: list[int] = overlap.clip(min=0).tolist()
    return counts


@dataclass(frozen=True)
class Balanced:
    """An attack of which every worker computes an even share; called like `PGD`.

    All workers must call it at the same time, with parts of a batch that differ by one sample at
    most. It finds what the attack itself would, but for rounding.

    Attributes:
        attack: No sample's result may depend on the others in the batch (`batch_norm="eval"`).
    """

    attack: PGD | SeveralNorms

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        ratios: float | Tensor,
        clean_logits: Tensor | None,
        keys: Tensor,
        carried: Tensor | None = None,
    ) -> AttackOutcome:
        """Attacks a batch; see `PGD`. Budgets must be per sample, and `clean_logits` given."""
        assert isinstance(ratios, Tensor)
        assert clean_logits is not None
        stop = self.attack.stop
        columns = {
            "images": images,
            "labels": labels,
            "ratios": ratios,
            "clean_logits": clean_logits,
            "keys": keys,
            "carried": carried,
            "applies": None if stop is None else stop.applies,
        }
        inputs = {name: column for name, column in columns.items() if column is not None}
        if world_size() == 1:
            return self._attack(model, **inputs)
        attacked = ratios > 0
        counts = gather_number(attacked.sum())
        moves = even_moves(counts, rank())
        if not moves.anywhere:
            return self._attack(model, **inputs)
        places = _Places.of(attacked, counts[rank()], moves)
        outcome = self._attack(model, **places.exchanged(inputs, moves))
        unattacked = AttackOutcome(
            images=images,
            eps=torch.zeros_like(outcome.eps),
            steps=torch.zeros_like(outcome.steps),
            logits=clean_logits.to(outcome.logits),
            survived=torch.zeros_like(outcome.survived),
        )
        return places.given_back(outcome, unattacked, moves)

    def _attack(
        self,
        model: nn.Module,
        *,
        images: Tensor,
        labels: Tensor,
        applies: Tensor | None = None,
        **others: Tensor,
    ) -> AttackOutcome:
        attack, stop = self.attack, self.attack.stop
        if stop is not None:
            attack = attack.with_stop(replace(stop, applies=applies))
        return attack(model, images, labels, **others)


@dataclass(frozen=True)
class _Places:
    """Where in its batch a worker's samples move.

    Attributes:
        leaving: Samples that others attack.
        lent: Samples without a budget, in whose places those of others are attacked: batches keep
            their size, so that compiled graphs fit.
    """

    leaving: Tensor
    lent: Tensor

    @classmethod
    def of(cls, attacked: Tensor, count: int, moves: Moves) -> _Places:
        """Returns them of a batch in which `count` samples are `attacked`, `(B,)`."""
        order = torch.argsort((~attacked).to(torch.uint8), stable=True)
        places = cls(
            leaving=order[count - sum(moves.sent) : count],
            lent=order[count : count + sum(moves.received)],
        )
        assert len(places.lent) == sum(moves.received), "parts differ by more than one sample"
        return places

    def exchanged(self, inputs: dict[str, Tensor], moves: Moves) -> dict[str, Tensor]:
        """Returns what an attack is given, a row a sample, with the samples where they go."""
        own = [column[self.leaving] for column in inputs.values()]
        arrived = exchange_rows(own, moves.sent, moves.received)
        dealt = {
            # In place, since that keeps the memory format.
            name: column.clone().index_copy_(0, self.lent, rows)
            for (name, column), rows in zip(inputs.items(), arrived, strict=True)
        }
        dealt["ratios"].index_fill_(0, self.leaving, 0)
        return dealt

    def given_back(
        self, outcome: AttackOutcome, unattacked: AttackOutcome, moves: Moves
    ) -> AttackOutcome:
        """Returns what was found of this worker's own samples, by whomever.

        Args:
            outcome: Of the attack after `exchanged`.
            unattacked: What an attack finds of samples without a budget.
            moves: As they were there.
        """
        names = [field.name for field in fields(AttackOutcome)]
        others = [getattr(outcome, name)[self.lent] for name in names]
        own = exchange_rows(others, moves.received, moves.sent)
        columns = {}
        for name, rows in zip(names, own, strict=True):
            column = getattr(outcome, name).index_copy(0, self.leaving, rows)
            columns[name] = column.index_copy_(0, self.lent, getattr(unattacked, name)[self.lent])
        return AttackOutcome(**columns)
