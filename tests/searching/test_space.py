"""Spaces: what ships is valid, what can't work is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.searching.space import (
    Space,
    check_space,
    read_space,
    representatives,
    spread_values,
)
from dynat_ray.settings import build_config, read_recipe

SHIPPED = sorted((Path(__file__).parents[2] / "tune_spaces").glob("*.yaml"))


def check(space: Space, **settings: object) -> RunConfig:
    default = build_config([read_recipe("digits"), space.fixed, settings])
    check_space(space, default)
    return default


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_the_spaces_that_ship_are_valid(file: Path) -> None:
    space = read_space(file)
    default = space.default(check(space))
    assert default.keys() == space.searched.keys()
    # The default setting is a point of the space, from which the search can learn.
    for key, distribution in space.searched.items():
        if isinstance(distribution, CategoricalDistribution):
            assert default[key] in distribution.choices, key
        else:
            assert distribution.low <= default[key] <= distribution.high, key


def test_all_four_ship() -> None:
    assert {f.stem for f in SHIPPED} == {"any-optimiser", "dynat", "dynat-wide", "trades"}


def test_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "method.name: trades\n"
        "method: {beta: {loguniform: [1, 1e1]}}\n"
        "attack.steps: {int: [1, 10]}\n"
        "optim.lr: {uniform: [1/100, 1e-1], points: 2}\n"
        "model.kwargs.base_width: {choice: [8, 16]}\n"
    )
    space = read_space(file)
    assert space.fixed == {"method.name": "trades"}
    assert space.searched == {
        "method.beta": FloatDistribution(1, 10, log=True),
        "attack.steps": IntDistribution(1, 10),
        "optim.lr": FloatDistribution(0.01, 0.1),
        "model.kwargs.base_width": CategoricalDistribution((8, 16)),
    }
    assert space.grid()["attack.steps"] == [1, 6, 10]
    assert space.grid()["optim.lr"] == [0.01, 0.1]
    assert space.grid_size() == 3 * 3 * 2 * 2
    default = space.default(check(space))
    assert default["model.kwargs.base_width"] == 16
    assert representatives(space) == [
        {"model.kwargs.base_width": 8},
        {"model.kwargs.base_width": 16},
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("method.skew_coeff: {uniform: [0, 1]}", "did you mean method.skew_coef"),
        ("method.skew_coef: {uniform: [1, 0]}", r"uniform \[1, 0\] is no range"),
        ("method.skew_coef: {uniform: [1, 1]}", "is no range"),
        ("method.skew_coef: {uniform: [0, 1, 2]}", r"\[smallest, largest\]"),
        ("method.skew_coef: {unifrm: [0, 1]}", "did you mean uniform"),
        ("method.skew_coef: {uniform: [0, 1], choice: [1, 2]}", "give one of"),
        ("method.skew_coef: {uniform: [0, one]}", "is 'one'; it must be a finite number"),
        ("method.skew_coef: {uniform: [0, .inf]}", "is inf; it must be a finite number"),
        ("method.skew_coef: {uniform: [0, 1], points: 1}", "points is 1"),
        ("method.kl_temperature: {uniform: [-1, 1]}", "method.kl_temperature is -1.0"),
        ("method.stop_margin: {uniform: [0, 2]}", "method.stop_margin is 2.0"),
        ("method.kl_temperature: {loguniform: [0, 1]}", "above 0"),
        ("attack.steps: {uniform: [1, 10]}", "whole number"),
        ("attack.steps: {int: [1.5, 10]}", "whole numbers"),
        ("optim.schedule: {choice: [cosine, cosin]}", "optim.schedule is 'cosin'"),
        ("optim.schedule: {choice: [cosine]}", "at least two"),
        ("threat.eps: {uniform: [1/255, 8/255]}", "judged alike"),
        ("train.epochs: {int: [1, 5]}", "judged alike"),
        ("data.image_size: {choice: [28, 32]}", "judged alike"),
        ("method.beta: 6", "searches nothing"),
        ("skew_coef: {uniform: [0, 1]}", "searches nothing"),
        ("[", "not valid YAML"),
        ("", "must hold sections"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        check(read_space(file))


def test_mistakes_in_what_all_trials_share() -> None:
    space = read_space(SHIPPED[1])
    with pytest.raises(UserError, match="held-out"):
        check(space, **{"data.val_fraction": 0})
    with pytest.raises(UserError, match="fixed number"):
        check(space, **{"cluster.workers": "1..2"})


def test_values_spread_over_a_distribution() -> None:
    assert spread_values(FloatDistribution(0, 1)) == [0.0, 0.5, 1.0]
    decades = spread_values(FloatDistribution(0.1, 10, log=True))
    assert decades == pytest.approx([0.1, 1, 10])
    assert decades[-1] == 10
    assert spread_values(IntDistribution(1, 3), 9) == [1, 2, 3]
    assert spread_values(CategoricalDistribution(("a", "b"))) == ["a", "b"]
