"""Per-sample outcomes of finished shards, put together, and the numbers that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Attack
from dynat_ray.evaluation.second_stage import SecondStage
from dynat_ray.evaluation.shards import STILL_RIGHT, FinishedShard
from dynat_ray.perturb.threat import Threat


@dataclass(frozen=True)
class Outcome:
    """What one attack did to every sample it saw.

    Attributes:
        attack: Its name.
        positions: Which of the evaluated images it saw, ascending, `(n,)`.
        predicted: Class after the attack, `(n,)`; -1 where the logits were not finite.
        fooled_by: Place in `stages` of the stage that fooled the sample, -1 where it is still
            right, -2 where it was wrong without attack, `(n,)`.
        stages: Names of the attack's stages.
        note: What was done otherwise than in the literature, or ``""``.
        distances: What a probe of distances measured, `(n,)`, may be infinite; else None.
        second_stage: Which samples the last stages saw, if that was a part of those still right;
            the others count as right in `fooled_by`.
    """

    attack: str
    positions: NDArray[np.int64]
    predicted: NDArray[np.int64]
    fooled_by: NDArray[np.int64]
    stages: tuple[str, ...] = ()
    note: str = ""
    distances: NDArray[np.float64] | None = None
    second_stage: SecondStage | None = None

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which samples are still right, `(n,)`."""
        return np.equal(self.fooled_by, STILL_RIGHT)

    @property
    def samples(self) -> int:
        """How many samples the attack saw."""
        return len(self.positions)

    @property
    def accuracy(self) -> float:
        """Samples still right, in percent."""
        return 100 * float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy, in percent."""
        return wilson_interval(int(self.correct.sum()), self.samples)

    def entry(self) -> dict[str, Any]:
        """Returns what results files hold: accuracies in percent, to three decimals."""
        entry: dict[str, Any] = {
            "accuracy": round(self.accuracy, 3),
            "samples": self.samples,
            "interval": [round(bound, 3) for bound in self.interval],
        }
        if len(self.stages) > 1:
            # Robust accuracy after each stage, as AutoAttack's own log has it.
            left = self.samples - int((self.fooled_by < STILL_RIGHT).sum())
            entry["after"] = {}
            for place, stage in enumerate(self.stages):
                left -= int((self.fooled_by == place).sum())
                entry["after"][stage] = round(100 * left / self.samples, 3)
        if self.note:
            entry["note"] = self.note
        return entry


# For each threat, by ascending radius, an outcome for each attack.
AttackOutcomes = Mapping[Threat, Mapping[str, Outcome]]


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a proportion, in percent.

    Wilson's score interval (E. B. Wilson 1927): unlike the normal approximation it stays inside
    [0, 100] and is right near both ends, where robust accuracies often are.

    Args:
        successes: Samples that were right, in [0, trials].
        trials: Samples looked at, at least 1.
    """
    # It takes a second to import, which workers need not wait for.
    from scipy.stats import binomtest

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def collect(
    finished: Iterable[FinishedShard], attacks: Sequence[Attack | Probe], classes: int
) -> dict[Threat, dict[str, Outcome]]:
    """Puts shards together: for each threat an outcome for each attack, in the order of `attacks`.

    Args:
        finished: Shards in any order, each once, with what came out.
        attacks: All attacks of the evaluation, or all probes (their radius is 0).
        classes: Number of classes of the model.
    """
    by_threat: dict[Threat, list[FinishedShard]] = {}
    for shard, outcomes in finished:
        by_threat.setdefault(shard.threat, []).append((shard, outcomes))
    return {
        threat: {
            attack.name: _join(attack, parts, attack.note(classes))
            for attack in attacks
            if any(attack.name in outcomes for _, outcomes in parts)
        }
        for threat, parts in sorted(by_threat.items(), key=lambda item: item[0].eps)
    }


def _join(attack: Attack | Probe, parts: Sequence[FinishedShard], note: str) -> Outcome:
    seen = [(shard.positions, found[attack.name]) for shard, found in parts if attack.name in found]
    positions = np.concatenate([places for places, _ in seen])
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    assert (np.diff(positions) > 0).all(), f"{attack.name}: a sample was counted twice"
    distances = [outcome.distances for _, outcome in seen if outcome.distances is not None]
    return Outcome(
        attack=attack.name,
        positions=positions,
        predicted=np.concatenate([outcome.predicted for _, outcome in seen])[order],
        fooled_by=np.concatenate([outcome.fooled_by for _, outcome in seen])[order],
        stages=tuple(stage.name for stage in attack.stages),
        note=note,
        distances=np.concatenate(distances)[order] if distances else None,
    )
