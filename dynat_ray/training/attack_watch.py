"""Notices that a method which attacks has stopped to, however well it seems to learn."""

from __future__ import annotations

from dynat_ray.config import RunConfig
from dynat_ray.training.state import Progress
from dynat_ray.training.telemetry import EpochRecord

# Below this part of the largest share before, attacks have stopped.
_FALLEN = 0.02


class AttackWatch:
    """Looks at every epoch's attacks.

    Args:
        config: For the threat and the attack; without a budget or a step there are no attacks.
        classes: Number of classes: a network that guesses may have nothing to attack.
    """

    def __init__(self, config: RunConfig, classes: int) -> None:
        self._eps, self._steps = config.threat.eps, config.attack.steps
        self._chance = 100 / classes

    def look(self, record: EpochRecord, progress: Progress) -> str:
        """Returns what to tell the user of an epoch, once a run; empty: nothing.

        Args:
            record: Of the epoch.
            progress: Remembers what was seen and said.
        """
        share = record.changed_share()
        if share is None or self._eps == 0 or self._steps == 0:
            return ""
        before = progress.most_attacked
        progress.most_attacked = max(before, share)
        accuracy = record.clean_accuracy()
        if accuracy is not None and accuracy <= self._chance:
            return ""
        given = record.attacked_share() or 0.0
        fallen, unchanged = before > 0 and share <= _FALLEN * before, given > 0 and share == 0
        if progress.attacks_stopped or not (fallen or unchanged):
            return ""
        progress.attacks_stopped = True
        learnt = "" if accuracy is None else f", at {accuracy:.1f} % clean accuracy"
        return (
            f"attacks have stopped: {given:.1f} % of the samples had a budget and {share:.1f} % "
            f"were changed by an attack (of threat.eps {self._eps:.4g} and attack.steps "
            f"{self._steps}), {before:.1f} % at most in an epoch before{learnt}"
        )
