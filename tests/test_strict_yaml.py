"""YAML files in which a setting is given twice: refused with the key and both lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat_ray.errors import UserError
from dynat_ray.searching.space import read_space
from dynat_ray.settings import build_config, read_settings, split_arguments

TWICE = {
    "a section": ("train:\n  epochs: 3\noptim: {lr: 1e-3}\ntrain:\n  seed: 5\n", "train", 1, 4),
    "a setting": ("train:\n  epochs: 3\n  seed: 1\n  epochs: 5\n", "train.epochs", 2, 4),
    "two spellings": ("train.epochs: 3\ntrain:\n  epochs: 5\n", "train.epochs", 1, 3),
    "an argument": ("model:\n  kwargs:\n    depth: 1\n    depth: 2\n", "model.kwargs.depth", 3, 4),
    "in quotes": ("train: {seed: 1}\n\n'train': {seed: 2}\n", "train", 1, 3),
    "below a list": ("a:\n- {b: 1,\n   b: 2}\n", "b", 2, 3),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_given_twice_is_refused(case: str, tmp_path: Path) -> None:
    text, key, first, second = TWICE[case]
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    for read in (read_settings, read_space):
        with pytest.raises(UserError, match=rf"gives {key} twice, in lines {first} and {second};"):
            read(file)


def test_a_distribution_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "method.beta: {uniform: [1, 2]}\noptim.lr: 0.1\nmethod.beta: {choice: [1, 2]}\n"
    )
    with pytest.raises(UserError, match=r"gives method.beta twice, in lines 1 and 3"):
        read_space(file)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.kwargs", "{act_layer: silu, act_layer: relu}"],
        ["--model.kwargs.stem", "{a: 1, a: 2}"],
    ],
)
def test_on_the_command_line_too(arguments: list[str]) -> None:
    with pytest.raises(UserError, match=r"gives \w+ twice, in line 1"):
        build_config([split_arguments(arguments)[0]])


def test_the_same_key_in_different_places_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "fine.yaml"
    file.write_text(
        "base: &base {seed: 1}\ntrain:\n  <<: *base\n  seed: 2\noptim: {name: sgd}\n"
        "method: {name: trades}\nmodel.kwargs: {act_layer: silu}\n"
    )
    assert read_settings(file)["train.seed"] == 2
