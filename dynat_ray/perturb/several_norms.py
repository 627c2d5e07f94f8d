"""Training attacks under several norms: the worst for each sample, or one drawn for it.

`max` is that of Tramer and Boneh (NeurIPS 2019); `random` draws a norm for each sample, where E-AT
(Croce and Hein, ICML 2022) draws one for a batch: as dear as a single norm. The mean of all norms'
losses is `methods.each_norm`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn

from dynat_ray import keyed_random
from dynat_ray.acceleration.modes import frozen
from dynat_ray.perturb.objectives import get_objective
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import AttackOutcome, StopRule

Combination = Literal["random", "max"]

# Of the random numbers that belong to a sample.
_CHOICE_STREAM = 21


@dataclass(frozen=True)
class SeveralNorms:
    """An attack under one of several norms for each sample; called like `PGD`.

    Budgets are ratios, so that a sample has the same share of each norm's radius.

    Attributes:
        attacks: One for each norm, alike in all but threat and step; in whose first's units the
            outcome gives budgets.
        combination: `random`: a norm is drawn for each sample by its key. `max`: all are tried,
            and the image counts for which the objective is largest.
    """

    attacks: tuple[PGD, ...]
    combination: Combination

    @property
    def stop(self) -> StopRule | None:
        """When the attacks stop early."""
        return self.attacks[0].stop

    def with_stop(self, stop: StopRule) -> SeveralNorms:
        """Returns the same attacks with another rule for stopping."""
        return replace(self, attacks=tuple(each.with_stop(stop) for each in self.attacks))

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
        """Attacks a batch; see `PGD`."""
        assert carried is None, "changes are carried on under one norm"
        if not isinstance(ratios, Tensor):
            ratios = torch.full((len(images),), ratios, device=images.device)
        everyone = torch.arange(len(images), device=images.device)

        def under(attack: PGD, rows: Tensor) -> AttackOutcome:
            stop = attack.stop
            if stop is not None and stop.applies is not None:
                attack = attack.with_stop(replace(stop, applies=stop.applies[rows]))
            found = attack(
                model,
                images[rows],
                labels[rows],
                ratios=ratios[rows],
                clean_logits=None if clean_logits is None else clean_logits[rows],
                keys=keys[rows],
            )
            return replace(found, eps=self.attacks[0].threat.eps * ratios[rows])

        if self.combination == "random":
            drawn = keyed_random.uniform(keys, 1, stream=_CHOICE_STREAM).squeeze(1)
            choice = (drawn * len(self.attacks)).long()
            parts = [(choice == place).nonzero().squeeze(1) for place in range(len(self.attacks))]
            found = [
                under(a, rows) for a, rows in zip(self.attacks, parts, strict=True) if len(rows)
            ]
            order = torch.cat(parts).argsort()
            return _gathered(found, order)
        found = [under(attack, everyone) for attack in self.attacks]
        scores = torch.stack(
            [self._score(model, each.images, labels, clean_logits) for each in found]
        )
        best = scores.argmax(dim=0)
        return _gathered(found, best * len(images) + everyone)

    def _score(
        self, model: nn.Module, images: Tensor, labels: Tensor, clean_logits: Tensor | None
    ) -> Tensor:
        """Returns the objective `(B,)` of what an attack has found."""
        objective = get_objective(self.attacks[0].objective)
        with frozen(model, self.attacks[0].batch_norm), torch.no_grad():
            logits = model(images).float()
        clean = None if clean_logits is None else clean_logits.float().log_softmax(dim=1)
        return objective(logits, labels, clean)


def _gathered(found: list[AttackOutcome], rows: Tensor) -> AttackOutcome:
    """Returns of several outcomes, one after the other, those of some samples."""
    return AttackOutcome(
        **{
            field.name: torch.cat([getattr(each, field.name) for each in found])[rows]
            for field in fields(AttackOutcome)
        }
    )
