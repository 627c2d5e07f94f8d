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
from dynat_ray.evaluation.shards import FinishedShard, Shard
from dynat_ray.perturb.threat import Threat

# Samples and the names of what is run on them.
_Piece = tuple[NDArray[np.int64], tuple[str, ...]]


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


def plan_shards(
    samples: int,
    attacks: Sequence[Attack | Probe],
    threats: Sequence[Threat],
    *,
    batch_size: int,
    costly_positions: NDArray[np.int64] | None = None,
    probes: Sequence[Attack | Probe] = (),
) -> list[Shard]:
    """Cuts an evaluation into shards of at most `batch_size` samples, as equal as they can be.

    Args:
        samples: Number of samples.
        attacks: What to run.
        threats: Of one norm, at least one; each has its own shards, with the same numbers.
        batch_size: Most samples in a shard, at least 1.
        costly_positions: The samples that costly attacks see; None: all.
        probes: What else to run, once; in shards of their own with the numbers that follow.
    """

    def cut(wanted: Sequence[Attack | Probe]) -> list[_Piece]:
        return _cut(samples, wanted, batch_size, costly_positions)

    pieces = cut(attacks)
    shards = [
        Shard(number, threat, positions, names)
        for threat in threats
        for number, (positions, names) in enumerate(pieces)
    ]
    return shards + [
        Shard(number, threats[0].at(0.0), positions, names, probes=True)
        for number, (positions, names) in enumerate(cut(probes), start=len(pieces))
    ]


def _cut(
    samples: int,
    attacks: Sequence[Attack | Probe],
    batch_size: int,
    costly_positions: NDArray[np.int64] | None,
) -> list[_Piece]:
    everywhere = np.arange(samples)
    names = tuple(attack.name for attack in attacks)
    cheap = tuple(attack.name for attack in attacks if not attack.costly)
    if costly_positions is None or len(cheap) == len(names):
        groups = [(everywhere, names)]
    else:
        groups = [(costly_positions, names), (np.setdiff1d(everywhere, costly_positions), cheap)]
    pieces: list[_Piece] = []
    for positions, wanted in groups:
        count = -(-len(positions) // batch_size)
        # Dealt out in turn: data sets are often sorted by class, and classes differ in how long
        # they stand an attack.
        pieces += [(positions[start::count], wanted) for start in range(count) if wanted]
    return pieces
