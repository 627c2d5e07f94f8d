"""Who proposes what: chance, the grid, Optuna."""

from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.searching.distributions import Choice, Range
from dynat_ray.searching.proposals import Proposals, Told, get_proposals, grid_size

SPACE = {"a": Range(0, 1), "b": Range(0.01, 100, log=True), "c": Choice(("x", "y"))}


def proposals(
    kind: str, *, seed: int = 0, objectives: tuple[str, ...] = ("robust",), trials: int = 30
) -> Proposals:
    return get_proposals(kind, SPACE, seed=seed, objectives=objectives, trials=trials)  # type: ignore[arg-type]


def accuracy(settings: dict[str, object]) -> float:
    """Best at a = 0.8, b = 10, c = y."""
    a, b = float(settings["a"]), float(settings["b"])  # type: ignore[arg-type]
    return 60 - 40 * (a - 0.8) ** 2 - 4 * (np.log10(b) - 1) ** 2 + 5 * (settings["c"] == "y")


def test_random_draws_follow_from_seed_and_number() -> None:
    one, other = proposals("random"), proposals("random")
    expected = {number: one.propose(number) for number in range(1, 5)}
    # A resumed search asks for the later ones alone.
    assert other.propose(4) == expected[4]
    assert other.propose(2) == expected[2]
    assert len({value["a"] for value in expected.values()}) == 4
    assert proposals("random", seed=1).propose(1) != expected[1]


def test_the_grid_gives_each_point_once() -> None:
    grid = proposals("grid")
    assert grid_size(SPACE) == 18
    points = {tuple(grid.propose(number).values()) for number in range(1, 19)}
    assert len(points) == 18
    assert {point[1] for point in points} == set(SPACE["b"].grid())


@pytest.mark.parametrize("seed", range(3))
def test_the_estimator_learns(seed: int) -> None:
    found: dict[str, list[float]] = {"tpe": [], "random": []}
    for kind, values in found.items():
        search = proposals(kind, seed=seed, trials=60)
        for number in range(1, 60):
            settings = search.propose(number)
            values.append(accuracy(settings))
            search.tell(number, Told(settings, (values[-1],), epochs=4))
    assert np.mean(found["tpe"][30:]) > np.mean(found["random"][30:]) + 5


def test_the_estimator_learns_from_what_was_done_before_a_resume() -> None:
    search = proposals("tpe", trials=60)
    generator = np.random.default_rng(0)
    for number in range(40):
        settings = {key: each.draw(generator) for key, each in SPACE.items()}
        search.tell(number, Told(settings, (accuracy(settings),), epochs=4))
    values = []
    for number in range(40, 60):
        values.append(accuracy(search.propose(number)))
    assert np.mean(values) > 55


def test_stopped_failed_and_strange_trials_are_taken_in() -> None:
    for objectives in (("robust",), ("clean", "robust")):
        search = proposals("tpe", objectives=objectives)
        values = (50.0,) * len(objectives)
        outside = {"a": 7.0, "b": 1.0, "c": "z"}
        search.tell(0, Told(outside, values, epochs=4))
        for number, told in enumerate(
            [
                (values, False),
                (values, True),
                (None, False),
                ((float("nan"),) * len(values), False),
            ],
            start=1,
        ):
            settings = search.propose(number)
            search.tell(number, Told(settings, told[0], epochs=2, stopped=told[1]))
            # And as after a resume.
            search.tell(number + 100, Told(settings, told[0], epochs=2, stopped=told[1]))
        assert set(search.propose(9)) == set(SPACE)


def test_both_objectives_are_sought() -> None:
    space = {"a": Range(0, 1), "b": Range(0, 1)}
    search = get_proposals("tpe", space, seed=0, objectives=("clean", "robust"), trials=50)
    late = []
    for number in range(1, 50):
        settings = search.propose(number)
        # `a` trades one for the other; `b` costs both.
        cost = 40 * settings["b"]
        values = (90 - 20 * settings["a"] - cost, 30 + 20 * settings["a"] - cost)
        search.tell(number, Told(settings, values, epochs=4))
        late.append(settings)
    late = late[25:]
    assert np.mean([each["b"] for each in late]) < 0.2
    assert np.ptp([each["a"] for each in late]) > 0.5
