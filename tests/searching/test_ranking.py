"""Pareto front, finalists and winner."""

from __future__ import annotations

from typing import Any

from dynat_ray.searching.ranking import finalists, objective_values, pareto_front, winner
from dynat_ray.searching.trial_records import Trial
from tests.searching.conftest import metrics_line


def trial(number: int, clean: float, robust: float, **content: Any) -> Trial:
    lines = [
        metrics_line(0, clean, robust),
        metrics_line(1, clean + 1, robust - 5) | {"best": False},
    ]
    return Trial(
        **{"number": number, "settings": {}, "state": "finished", "metrics": lines} | content
    )


def numbers(trials: list[Trial]) -> list[int]:
    return [each.number for each in trials]


def test_the_best_epoch_counts() -> None:
    assert objective_values(trial(0, 80, 50), ("clean", "robust")) == (80, 50)
    assert objective_values(trial(0, 80, 50, metrics=[]), ("robust",)) is None


def test_pareto_front() -> None:
    trials = [
        trial(0, 80, 50),
        trial(1, 90, 40),
        trial(2, 85, 45),
        trial(3, 79, 50),
        trial(4, 70, 39),
    ]
    assert numbers(pareto_front(trials)) == [0, 1, 2]
    # Equals do not beat each other.
    assert numbers(pareto_front([trial(0, 80, 50), trial(1, 80, 50)])) == [0, 1]


def test_finalists_are_the_best_that_finished_and_the_default() -> None:
    trials = [
        trial(0, 80, 30),
        trial(1, 80, 60, state="stopped"),
        trial(2, 80, 55),
        trial(3, 80, 52),
        trial(4, 80, 50),
        trial(5, 80, 90, state="failed"),
    ]
    assert numbers(finalists(trials, 2, ("robust",))) == [2, 3, 0]
    assert numbers(finalists(trials[:1], 2, ("robust",))) == [0]
    assert finalists([trials[1]], 2, ("robust",)) == []


def test_with_two_objectives_the_front_comes_first() -> None:
    trials = [trial(0, 95, 30), trial(1, 80, 55), trial(2, 79, 54), trial(3, 90, 50)]
    assert numbers(finalists(trials, 2, ("robust",))) == [1, 2, 0]
    assert numbers(finalists(trials, 3, ("clean", "robust"))) == [1, 3, 0]


def test_the_attack_chooses_the_winner_not_pgd() -> None:
    def entries(clean: float, robust: float) -> dict[str, Any]:
        return {"clean": {"accuracy": clean}, "autoattack": {"accuracy": robust}}

    trials = [
        trial(0, 80, 40, validation=entries(80, 35)),
        trial(1, 80, 60, validation=entries(80, 20)),
        trial(2, 80, 99),
        trial(3, 80, 39, validation=entries(81, 35)),
        trial(4, 80, 38, validation=entries(81, 35)),
    ]
    best = winner(trials[1:], "autoattack")
    assert best is not None
    assert best.number == 3
    # No more robust: the default setting stays.
    best = winner(trials, "autoattack")
    assert best is not None
    assert best.number == 0
    assert winner(trials[2:3], "autoattack") is None
