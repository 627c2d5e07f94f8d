"""Who proposes what: chance, the grid, the estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dynat_ray.searching.proposals import Proposals
from dynat_ray.searching.space import parse_space
from dynat_ray.searching.study import SearchOptions
from dynat_ray.searching.trial_records import State, Trial
from dynat_ray.storage.run_length import RunLength
from tests.searching.conftest import metrics_line

SPACE = {
    "a": {"uniform": [0, 1]},
    "b": {"loguniform": [0.01, 100]},
    "c": {"choice": ["x", "y"]},
}


def make_proposals(
    search: str, content: Mapping[str, Any] = SPACE, *, trials: int = 30, **options: Any
) -> Proposals:
    return Proposals(
        parse_space(content),
        SearchOptions(**{"trials": trials, "search": search} | options),  # type: ignore[arg-type]
        RunLength(4),
    )


def trial_of(
    number: int,
    settings: Mapping[str, Any],
    robust: float,
    clean: float = 90.0,
    state: State = "finished",
) -> Trial:
    return Trial(number, dict(settings), state, metrics=[metrics_line(3, clean, robust)])


def accuracy(settings: Mapping[str, Any]) -> float:
    """Best at a = 0.8, b = 10, c = y."""
    a, b = float(settings["a"]), float(settings["b"])
    return float(60 - 40 * (a - 0.8) ** 2 - 4 * (np.log10(b) - 1) ** 2 + 5 * (settings["c"] == "y"))


def draws(content: Mapping[str, Any], count: int = 2000) -> list[Any]:
    proposals = make_proposals("random", {"a": content})
    return [proposals.ask(number)["a"] for number in range(1, count + 1)]


def test_uniform() -> None:
    values = np.array(draws({"uniform": [2, 4]}), dtype=float)
    assert 2 <= values.min() < 2.01
    assert 3.99 < values.max() <= 4
    assert values.mean() == pytest.approx(3, abs=0.03)


def test_loguniform_spreads_over_the_decades() -> None:
    values = np.array(draws({"loguniform": [0.01, 100]}), dtype=float)
    assert np.median(values) == pytest.approx(1, rel=0.2)
    assert values.min() >= 0.01
    assert values.max() <= 100


@pytest.mark.parametrize("kind", ["int", "logint"])
def test_whole_numbers_include_both_ends(kind: str) -> None:
    values = draws({kind: [1, 4]})
    assert all(isinstance(value, int) for value in values)
    shares = np.bincount(np.array(values, dtype=int))[1:] / len(values)
    assert len(shares) == 4
    if kind == "int":
        np.testing.assert_allclose(shares, 0.25, atol=0.03)
    else:
        assert (np.diff(shares) < 0).all()


def test_choice_draws_all() -> None:
    values = draws({"choice": ["sgd", "adamw", None]}, 300)
    assert {values.count(each) > 60 for each in ("sgd", "adamw", None)} == {True}


def test_random_draws_follow_from_seed_and_number() -> None:
    one, other = make_proposals("random"), make_proposals("random")
    expected = {number: one.ask(number) for number in range(1, 5)}
    # A resumed search asks for the later ones alone.
    assert other.ask(4) == expected[4]
    assert other.ask(2) == expected[2]
    assert len({value["a"] for value in expected.values()}) == 4
    assert make_proposals("random", seed=1).ask(1) != expected[1]


def test_the_grid_gives_each_point_once() -> None:
    space = parse_space(SPACE)
    grid = make_proposals("grid")
    assert space.grid_size() == 18
    points = {number: tuple(grid.ask(number).values()) for number in range(1, 19)}
    assert len(set(points.values())) == 18
    assert {point[1] for point in points.values()} == set(space.grid()["b"])
    # A resumed search asks for the later ones alone.
    assert tuple(make_proposals("grid").ask(7).values()) == points[7]
    other = make_proposals("grid", seed=1)
    assert [tuple(other.ask(number).values()) for number in points] != list(points.values())


@pytest.mark.parametrize("seed", range(3))
def test_the_estimator_learns(seed: int) -> None:
    found: dict[str, list[float]] = {"tpe": [], "random": []}
    for kind, values in found.items():
        search = make_proposals(kind, seed=seed, trials=60)
        for number in range(1, 60):
            settings = search.ask(number)
            values.append(accuracy(settings))
            search.tell(trial_of(number, settings, values[-1]))
    assert np.mean(found["tpe"][30:]) > np.mean(found["random"][30:]) + 5


def test_the_estimator_learns_from_what_was_done_before_a_resume() -> None:
    search, chance = make_proposals("tpe", trials=60), make_proposals("random")
    for number in range(40):
        settings = chance.ask(number)
        search.tell(trial_of(number, settings, accuracy(settings)))
    values = [accuracy(search.ask(number)) for number in range(40, 60)]
    assert np.mean(values) > 55


def test_a_resumed_estimator_does_not_repeat_its_draws() -> None:
    first = make_proposals("tpe").ask(1)
    resumed = make_proposals("tpe")
    assert resumed.ask(2) != first
    assert make_proposals("tpe").ask(1) == first


def test_stopped_failed_and_strange_trials_are_taken_in() -> None:
    for objectives in (("robust",), ("clean", "robust")):
        search = make_proposals("tpe", objectives=objectives)
        outside = {"a": 7.0, "b": 1.0, "c": "z"}
        search.tell(trial_of(0, outside, 50.0))
        # The default setting may lack what is searched, or have a fraction among whole numbers.
        search.tell(trial_of(0, outside | {"a": None}, 50.0))
        ends: list[tuple[float, State]] = [
            (50.0, "finished"),
            (50.0, "stopped"),
            (50.0, "failed"),
            (float("nan"), "finished"),
        ]
        for number, (robust, state) in enumerate(ends, start=1):
            settings = search.ask(number)
            search.tell(trial_of(number, settings, robust, 50.0, state))
            # And as after a resume.
            search.tell(trial_of(number + 100, settings, robust, 50.0, state))
        search.tell(Trial(9, search.ask(9), "failed"))
        states = [trial.state.name for trial in search._study.trials]
        early = "PRUNED" if len(objectives) == 1 else "COMPLETE"
        assert states == [
            each for name in ("COMPLETE", early, "FAIL", "FAIL") for each in (name, name)
        ] + ["FAIL"]
        assert set(search.ask(10)) == set(SPACE)


def test_both_objectives_are_sought() -> None:
    space = {"a": {"uniform": [0, 1]}, "b": {"uniform": [0, 1]}}
    search = make_proposals("tpe", space, objectives=("clean", "robust"), trials=50)
    late = []
    for number in range(1, 50):
        settings = search.ask(number)
        # `a` trades one for the other; `b` costs both.
        cost = 40 * settings["b"]
        clean, robust = 90 - 20 * settings["a"] - cost, 30 + 20 * settings["a"] - cost
        search.tell(trial_of(number, settings, robust, clean))
        late.append(settings)
    late = late[25:]
    assert np.mean([each["b"] for each in late]) < 0.2
    assert np.ptp([each["a"] for each in late]) > 0.5
