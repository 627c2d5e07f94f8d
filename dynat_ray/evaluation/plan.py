"""What an evaluation measures, and how it is cut into shards and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Attack
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome, collect
from dynat_ray.evaluation.shards import FinishedShard, Shard, plan_shards
from dynat_ray.perturb.threat import Threat


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """Attacks under one or more threats on a set of samples.

    Attributes:
        samples: How many there are.
        classes: How many the model tells apart.
        attacks: What to run under every threat.
        threats: Of one norm, by ascending radius, at least one.
        costly_positions: The samples that costly attacks see, ascending, `(n,)`.
        seed: Of all randomness.
        batch_size: Most samples in a shard.
        probes: What else to measure, once.
    """

    samples: int
    classes: int
    attacks: Sequence[Attack]
    threats: Sequence[Threat]
    costly_positions: NDArray[np.int64]
    seed: int
    batch_size: int
    probes: Sequence[Probe] = ()

    def shards(self) -> list[Shard]:
        """Returns all shards."""
        return plan_shards(
            self.samples,
            self.attacks,
            self.threats,
            batch_size=self.batch_size,
            costly_positions=self.costly_positions,
            probes=self.probes,
        )

    def settings(self) -> dict[str, Any]:
        """Returns what outcomes follow from beside model and samples, as JSON values."""
        settings = {
            "norm": self.threats[0].norm,
            "eps": [threat.eps for threat in self.threats],
            "attacks": [attack.name for attack in self.attacks],
            "samples": self.samples,
            "costly_samples": len(self.costly_positions),
            "seed": self.seed,
            "batch_size": self.batch_size,
        }
        if self.probes:
            settings["probes"] = [probe.name for probe in self.probes]
        return settings

    def outcomes(self, finished: Sequence[FinishedShard]) -> AttackOutcomes:
        """Returns what all attacks did, for each threat, from the finished shards."""
        attacked = [(shard, found) for shard, found in finished if not shard.probes]
        return collect(attacked, self.attacks, self.classes)

    def probed(self, finished: Sequence[FinishedShard]) -> dict[str, Outcome]:
        """Returns what came out for each probe, by name, from the finished shards."""
        probed = [(shard, found) for shard, found in finished if shard.probes]
        return collect(probed, self.probes, self.classes).get(self.threats[0].at(0.0), {})
