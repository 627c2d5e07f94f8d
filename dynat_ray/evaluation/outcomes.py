"""Per-sample outcomes of finished shards, put together, and the numbers that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Attack, get_attack
from dynat_ray.evaluation.second_stage import (
    Estimate,
    SecondStage,
    estimate_accuracy,
    estimate_of_these,
    wilson,
)
from dynat_ray.evaluation.shard_outcome import STILL_RIGHT, ShardOutcome
from dynat_ray.evaluation.shards import FinishedShard
from dynat_ray.perturb.threat import Threat


@dataclass(frozen=True)
class Outcome:
    """What one attack did to every sample it saw.

    Attributes:
        attack: Its name.
        positions: Which of the evaluated images it saw, ascending, `(n,)`.
        predicted: Class after the attack, `(n,)`; -1 where the logits were not finite.
        fooled_by: Place in `stages` of the stage that fooled the sample at this radius or a smaller
            one, -1 where it is still right, -2 where it was wrong without attack, `(n,)`.
        stages: Names of the attack's stages.
        note: What was done otherwise than in the literature, or ``""``.
        distances: What a probe of distances measured, `(n,)`, may be infinite; else None.
        margins: As in `ShardOutcome`, `(n,)`; None: not needed.
        fallen_before: Which samples an attack had fooled at a smaller radius, `(n,)`; None: there
            was none.
        second_stage: Which samples the last stages saw, if that was a part of those still right;
            the others count as right in `fooled_by`.
        at_most: What is estimated at the next smaller radius, above which accuracy can't be.
    """

    attack: str
    positions: NDArray[np.int64]
    predicted: NDArray[np.int64]
    fooled_by: NDArray[np.int64]
    stages: tuple[str, ...] = ()
    note: str = ""
    distances: NDArray[np.float64] | None = None
    margins: NDArray[np.float64] | None = None
    fallen_before: NDArray[np.bool_] | None = None
    second_stage: SecondStage | None = None
    at_most: Estimate | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which samples are still right, `(n,)`."""
        return np.equal(self.fooled_by, STILL_RIGHT)

    @property
    def samples(self) -> int:
        """How many samples the attack saw."""
        return len(self.positions)

    @property
    def estimate(self) -> Estimate:
        """Samples still right, in percent, with a 95 % confidence interval."""
        estimate = estimate_accuracy(self.correct, self.second_stage)
        return estimate if self.at_most is None else estimate.at_most(self.at_most)

    @property
    def accuracy(self) -> float:
        """Samples still right, in percent."""
        return self.estimate.accuracy

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy, in percent."""
        return self.estimate.low, self.estimate.high

    def after(self) -> dict[str, float]:
        """Returns samples still right after each stage, in percent, as AutoAttack's log has it.

        A stage that saw a sample is left out, as is what comes after it.
        """
        wrong = self.fooled_by < STILL_RIGHT
        if self.fallen_before is not None:
            wrong = wrong | self.fallen_before
        left, after = {}, self.samples - int(wrong.sum())
        stages = self.stages
        if self.second_stage is not None:
            stages = stages[: len(get_attack(self.attack).places("first"))]
        for place, stage in enumerate(stages):
            after -= int((np.equal(self.fooled_by, place) & ~wrong).sum())
            left[stage] = round(100 * after / self.samples, 3)
        return left

    def entry(self) -> dict[str, Any]:
        """Returns what results files hold: accuracies in percent, to three decimals."""
        entry: dict[str, Any] = {
            "accuracy": round(self.accuracy, 3),
            "samples": self.samples,
            "interval": [round(bound, 3) for bound in self.interval],
        }
        if len(self.stages) > 1:
            entry["after"] = self.after()
        if self.second_stage is not None:
            entry["two_stage"] = self._two_stage(self.second_stage)
        if self.note:
            entry["note"] = self.note
        return entry

    def _two_stage(self, stage: SecondStage) -> dict[str, Any]:
        *_, bound = self.after().values()
        these = estimate_of_these(self.correct, stage)
        return {
            "upper_bound": bound,
            "upper_bound_interval": [
                round(100 * limit, 3) for limit in wilson(bound / 100, self.samples)
            ],
            # What the whole attack leaves of the same images.
            "same_images_interval": [round(these.low, 3), round(these.high, 3)],
            "strata": [asdict(counts) for counts in stage.counts(self.correct)],
        }


# For each threat, by ascending radius, an outcome for each attack.
AttackOutcomes = Mapping[Threat, Mapping[str, Outcome]]


def collect(
    finished: Iterable[FinishedShard], attacks: Sequence[Attack | Probe], classes: int
) -> dict[Threat, dict[str, Outcome]]:
    """Puts shards together: for each threat an outcome for each attack, in the order of `attacks`.

    Args:
        finished: Shards in any order, each once, with what came out.
        attacks: All attacks of the evaluation, or all probes (their radius is 0).
        classes: Number of classes of the model.
    """
    by_threat: dict[Threat, list[_Piece]] = {}
    for shard, found in finished:
        for threat, outcomes in found.items():
            by_threat.setdefault(threat, []).append((shard.positions, outcomes))
    collected: dict[Threat, dict[str, Outcome]] = {}
    before: dict[str, Outcome] = {}
    for threat, parts in sorted(by_threat.items(), key=lambda item: item[0].eps):
        collected[threat] = before = {
            attack.name: _join(attack, parts, attack.note(classes), before.get(attack.name))
            for attack in attacks
            if any(attack.name in outcomes for _, outcomes in parts)
        }
    return collected


# Samples and what came out for them.
_Piece = tuple[NDArray[np.int64], Mapping[str, ShardOutcome]]


def _join(
    attack: Attack | Probe, parts: Sequence[_Piece], note: str, before: Outcome | None
) -> Outcome:
    seen = [(places, found[attack.name]) for places, found in parts if attack.name in found]
    positions = np.concatenate([places for places, _ in seen])
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    assert (np.diff(positions) > 0).all(), f"{attack.name}: a sample was counted twice"

    def joined(field: str) -> NDArray[Any] | None:
        values = [getattr(outcome, field) for _, outcome in seen]
        return None if values[0] is None else np.concatenate(values)[order]

    return Outcome(
        attack=attack.name,
        positions=positions,
        predicted=np.concatenate([outcome.predicted for _, outcome in seen])[order],
        fooled_by=np.concatenate([outcome.fooled_by for _, outcome in seen])[order],
        stages=tuple(stage.name for stage in attack.stages),
        note=note,
        distances=joined("distances"),
        margins=joined("margins"),
        fallen_before=None if before is None else before.fooled_by >= 0,
    )
