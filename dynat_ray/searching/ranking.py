"""Which trials are good: by one objective or several, and in the end under AutoAttack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynat_ray.searching.search_objectives import OBJECTIVES
from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial


def objective_values(trial: Trial, objectives: Sequence[str]) -> tuple[float, ...] | None:
    """Returns the best epoch's accuracies in percent; None if there is none."""
    best = trial.best
    return None if best is None else tuple(float(best[OBJECTIVES[name]]) for name in objectives)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials that no other one beats in clean and in robust accuracy."""
    points = {t.number: objective_values(t, ("clean", "robust")) for t in trials}

    def beaten(trial: Trial) -> bool:
        mine = points[trial.number]
        return mine is None or any(
            other is not None
            and other != mine
            and all(theirs >= own for theirs, own in zip(other, mine, strict=True))
            for other in points.values()
        )

    return [trial for trial in trials if not beaten(trial)]


def finalists(trials: Sequence[Trial], count: int, objectives: Sequence[str]) -> list[Trial]:
    """Returns the finished trials that AutoAttack shall judge, best first.

    Args:
        trials: All trials.
        count: How many of the best.
        objectives: With several, the Pareto front comes before all other trials.

    Returns:
        The best `count`, and the default setting, which the winner must beat.
    """
    finished = [trial for trial in trials if trial.state == "finished" and trial.best]
    front = {t.number for t in pareto_front(finished)} if len(objectives) > 1 else set()

    def rank(trial: Trial) -> tuple[Any, ...]:
        values = objective_values(trial, ("robust", "clean"))
        return trial.number in front, values, -trial.number

    ranked = sorted(finished, key=rank, reverse=True)
    return ranked[:count] + [t for t in ranked[count:] if t.number == DEFAULT_TRIAL]


def winner(trials: Sequence[Trial], attack: str) -> Trial | None:
    """Returns the trial with the highest validation accuracy under `attack`; None: none has any.

    Among equals the default setting wins, then the higher clean accuracy.
    """
    judged = [trial for trial in trials if attack in trial.validation]

    def rank(trial: Trial) -> tuple[float, bool, float, int]:
        robust = trial.validation[attack]["accuracy"]
        clean = trial.validation.get("clean", {"accuracy": robust})["accuracy"]
        return robust, trial.number == DEFAULT_TRIAL, clean, -trial.number

    return max(judged, key=rank, default=None)
