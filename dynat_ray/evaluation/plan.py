"""What an evaluation measures, and how it is cut into shards and put together again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.attacks.drafts import takes_draft
from dynat_ray.attacks.probes import Probe
from dynat_ray.attacks.registry import Attack, Part
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome, collect
from dynat_ray.evaluation.second_round import draw_second_stage, with_second_stage
from dynat_ray.evaluation.shards import FinishedShard, Shard
from dynat_ray.perturb.threat import Threat

# Samples and the names of what is run on them.
_Piece = tuple[NDArray[np.int64], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """Attacks under one or more threats on a set of samples.

    All shards but those of sampled stages are known from the start. Whom these stages see follows
    from what the stages before them left right, so that their shards are a second round.

    Attributes:
        samples: How many there are.
        classes: How many the model tells apart.
        attacks: What to run under every threat.
        threats: Of one norm, by ascending radius, at least one.
        costly_positions: The samples that costly attacks see, ascending, `(n,)`.
        seed: Of all randomness.
        batch_size: Most samples in a shard.
        second_stage: How many samples the sampled stages of an attack see, beside those that fall
            most easily; 0: all.
        drafts: Whether stages may look with a draft of the model, see `attacks.drafts`.
        probes: What else to measure, once.
    """

    samples: int
    classes: int
    attacks: Sequence[Attack]
    threats: Sequence[Threat]
    costly_positions: NDArray[np.int64]
    seed: int
    batch_size: int
    second_stage: int = 0
    drafts: bool = False
    probes: Sequence[Probe] = ()

    def shards(self) -> list[Shard]:
        """Returns the shards of the first round."""
        return plan_shards(
            self.samples,
            self.attacks,
            self.threats,
            batch_size=self.batch_size,
            costly_positions=self.costly_positions,
            part="first" if self.second_stage else "whole",
            drafts=self.drafts,
            probes=self.probes,
        )

    def second_round(self, finished: Sequence[FinishedShard]) -> list[Shard]:
        """Returns the shards of the second round, which may be none.

        Args:
            finished: All shards of the first.
        """
        if not self._sampled:
            return []
        number = len(finished)
        shards = []
        for threat, found in self._first_outcomes(finished).items():
            for attack in self._sampled if threat.eps > 0 else ():
                outcome = self._drawn(found[attack.name], threat)
                assert outcome.second_stage is not None
                chosen = outcome.positions[outcome.second_stage.tried]
                for positions in _deal(chosen, self.batch_size):
                    shard = Shard(number, (threat,), positions, (attack.name,), "last")
                    shards.append(replace(shard, drafts=self.drafts))
                    number += 1
        return shards

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
        if any(attack.sampled for attack in self.attacks):
            settings["second_stage"] = self.second_stage
        if self.drafts and any(takes_draft(stage) for a in self.attacks for stage in a.stages):
            settings["drafts"] = True
        if self.probes:
            settings["probes"] = [probe.name for probe in self.probes]
        return settings

    def outcomes(self, finished: Sequence[FinishedShard]) -> AttackOutcomes:
        """Returns what all attacks did, for each threat, from the finished shards of all rounds."""
        found = self._first_outcomes(finished)
        before: Mapping[str, Outcome] = {}
        for threat, outcomes in found.items():
            own = [each for each in _of_part(finished, "last") if each[0].threats == (threat,)]
            tried = collect(own, self._sampled, self.classes).get(threat, {})
            for name in [attack.name for attack in self._sampled if threat.eps > 0]:
                drawn = self._drawn(outcomes[name], threat)
                outcomes[name] = with_second_stage(drawn, tried.get(name), before.get(name))
            before = outcomes if threat.eps > 0 else {}
        self._note_inferred(found)
        return found

    def _note_inferred(self, found: Mapping[Threat, dict[str, Outcome]]) -> None:
        """Says of whom most of an attack's stages were spared at a radius of a curve."""
        for (smaller, outcomes), (_, larger) in pairwise(found.items()):
            for attack in self.attacks if smaller.eps > 0 else ():
                if len(attack.stages) < 2 or attack in self._sampled:
                    continue
                outcome = outcomes[attack.name]
                inferred = int(larger[attack.name].correct.sum())
                if inferred:
                    words = (
                        f"{inferred} of {int(outcome.correct.sum())} right images are so since "
                        "the attack left them right at a larger eps"
                    )
                    note = "; ".join(filter(None, [outcome.note, words]))
                    outcomes[attack.name] = replace(outcome, note=note)

    def probed(self, finished: Sequence[FinishedShard]) -> dict[str, Outcome]:
        """Returns what came out for each probe, by name, from the finished shards."""
        probed = [(shard, found) for shard, found in finished if shard.probes]
        return collect(probed, self.probes, self.classes).get(self.threats[0].at(0.0), {})

    @property
    def _sampled(self) -> list[Attack]:
        return [attack for attack in self.attacks if attack.sampled and self.second_stage]

    def _first_outcomes(
        self, finished: Sequence[FinishedShard]
    ) -> dict[Threat, dict[str, Outcome]]:
        part: Part = "first" if self.second_stage else "whole"
        return collect(_of_part(finished, part), self.attacks, self.classes)

    def _drawn(self, outcome: Outcome, threat: Threat) -> Outcome:
        """Returns an outcome of the first round with whom the second sees."""
        place = list(self.threats).index(threat)
        return draw_second_stage(outcome, self.second_stage, seed=(self.seed, place))


def plan_shards(
    samples: int,
    attacks: Sequence[Attack | Probe],
    threats: Sequence[Threat],
    *,
    batch_size: int,
    costly_positions: NDArray[np.int64] | None = None,
    part: Part = "whole",
    drafts: bool = False,
    probes: Sequence[Attack | Probe] = (),
) -> list[Shard]:
    """Cuts an evaluation into shards of at most `batch_size` samples, as equal as they can be.

    Args:
        samples: Number of samples.
        attacks: What to run.
        threats: Of one norm, by ascending radius, at least one.
        batch_size: Most samples in a shard, at least 1.
        costly_positions: The samples that costly attacks see; None: all.
        part: Which of the attacks' stages.
        drafts: As in `Shard`.
        probes: What else to run, once; in shards of their own with the numbers that follow.
    """

    def cut(wanted: Sequence[Attack | Probe]) -> list[_Piece]:
        return _cut(samples, wanted, batch_size, costly_positions)

    pieces = cut(attacks)
    shards = [
        Shard(number, tuple(threats), positions, names, part, drafts=drafts)
        for number, (positions, names) in enumerate(pieces)
    ]
    return shards + [
        Shard(number, (threats[0].at(0.0),), positions, names, probes=True)
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
    return [
        (positions, wanted)
        for members, wanted in groups
        for positions in (_deal(members, batch_size) if wanted else ())
    ]


def _deal(positions: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Deals samples out to shards in turn.

    Data sets are often sorted by class, and classes differ in how long they stand an attack.
    """
    count = -(-len(positions) // batch_size)
    return (positions[start::count] for start in range(count))


def _of_part(finished: Sequence[FinishedShard], part: Part) -> list[FinishedShard]:
    return [each for each in finished if each[0].part == part and not each[0].probes]
