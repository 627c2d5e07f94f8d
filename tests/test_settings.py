"""Settings: where they come from, what is refused, what the message says."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat_ray.config import ClusterConfig, RunConfig
from dynat_ray.errors import UserError
from dynat_ray.methods import method_settings
from dynat_ray.settings import (
    build_config,
    dump_config,
    override,
    read_recipe,
    read_settings,
    recipe_names,
    split_arguments,
)


def build(*arguments: str) -> RunConfig:
    return build_config([split_arguments(arguments)[0]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threat.eps", "-0.1"], ["threat.eps", "-0.1", "0 or more"]),
        (["--threat.eps", "nan"], ["threat.eps", "finite"]),
        (["--threat.norm", "L1"], ["threat.norm", "L1", "Linf", "L2"]),
        (["--train.epochs", "0"], ["train.epochs", "0", "at least 1"]),
        (["--train.epochs", "many"], ["train.epochs", "many", "whole number"]),
        (["--train.epoch", "3"], ["train.epoch", "train.epochs"]),
        (["--optim.lr", "fast"], ["optim.lr", "fast", "number"]),
        (["--method.name", "dynet"], ["dynet", "dynat"]),
        (["--method.skew", "1"], ["method.skew", "method.skew_coef"]),
        (["--method.name", "standard", "--method.beta", "1"], ["method.beta"]),
        (["--cluster.workers", "4..2"], ["cluster.workers", "4..2", "1..4"]),
        (["--cluster.workers", "8", "--train.batch_size", "4"], ["batch_size", "workers"]),
        (["--data.extra_fraction", "0.5"], ["extra_fraction", "extra_path"]),
        (["--data.val_fraction", "0.9"], ["data.val_fraction", "0.9"]),
        (["--threat.eps"], ["threat.eps", "value"]),
        (["--threat.eps", "8/2.5.5"], ["threat.eps", "8/2.5.5", "number"]),
        (["--cluster.workers", "1.5"], ["cluster.workers", "1.5", "1..4", "auto"]),
        (["--train.epochs", ""], ["train.epochs", "no value"]),
        (["--optim.milestones", "null"], ["optim.milestones", "number"]),
        (["--train.seed", str(2**63)], ["train.seed", "below 2^63"]),
    ],
)
def test_mistakes_name_key_value_and_what_is_allowed(
    arguments: list[str], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        build(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_numbers_lists_and_free_keys_are_understood() -> None:
    config = build(
        "--threat.eps=8/255",
        "--optim.lr",
        "1e-3",
        "--data.augment",
        "crop,flip",
        "--model.kwargs.base_width",
        "16",
        "--optim.milestones",
        "1/2,0.75",
        "--attack.random_start",
        "false",
    )
    assert config.threat.eps == 8 / 255
    assert config.optim.lr == 1e-3
    assert config.data.augment == ["crop", "flip"]
    assert config.model.kwargs == {"base_width": 16}
    assert config.optim.milestones == [0.5, 0.75]
    assert config.attack.random_start == "none"


def test_later_layers_win_and_another_method_drops_the_fields_of_the_first() -> None:
    layers = [{"method.name": "dynat", "method.beta": 3.0, "train.seed": 1}, {"train.seed": 2}]
    assert build_config(layers).method.beta == 3.0
    assert build_config(layers).train.seed == 2
    other = build_config([*layers, {"method.name": "trades"}])
    assert other.method.beta == 6.0


def test_another_model_drops_the_arguments_of_the_first() -> None:
    layers = [{"model.name": "preact_resnet10", "model.kwargs": {"base_width": 16}}]
    assert build_config([*layers, {"train.seed": 1}]).model.kwargs == {"base_width": 16}
    assert build_config([*layers, {"model.name": "mlp"}]).model.kwargs == {}


def test_a_dumped_config_reads_back_the_same(tmp_path: Path) -> None:
    config = build("--method.gap_coef", "0.1", "--model.kwargs", "{base_width: 8}")
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert build_config([read_settings(tmp_path / "config.yaml")]) == config
    assert override(config, {"train.epochs": 7}).train.epochs == 7


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds(name: str) -> None:
    config = build_config([read_recipe(name)])
    assert config.method.name in method_settings()


def test_a_file_may_hold_fractions_in_lists_and_empty_sections(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "optim: {milestones: [1/2, 3/4]}\ntrain:\n  # epochs: 3\ncluster: {workers: 2}\n"
    )
    config = build_config([read_settings(file)])
    assert config.optim.milestones == [0.5, 0.75]
    assert config.train.epochs == 30
    assert config.cluster.worker_range() == (2, 2)
    assert build("--cluster.workers", "2").cluster.workers == 2
    assert build("--optim.milestones", "[1/4, 1/2]").optim.milestones == [0.25, 0.5]
    assert build("--optim.milestones", "0.5").optim.milestones == [0.5]
    for text, words in {
        "trian:": "trian",
        "optim: {milestones: }": "optim.milestones has no value",
        "threat: {eps: }": "threat.eps has no value",
        "method: {name: mail, slope: 1, bias: 0, beta: }": "method.beta",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            build_config([read_settings(file)])


def test_an_unreadable_config_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("train: [")
    for name in ("bad.yaml", "missing.yaml"):
        with pytest.raises(UserError, match=name):
            read_settings(tmp_path / name)


@pytest.mark.parametrize("name", method_settings())
def test_settings_that_may_be_nothing_are_read_back(name: str) -> None:
    config = build("--method.name", name)
    assert override(config, {"train.seed": 1}).method == config.method


def test_worker_ranges() -> None:
    assert ClusterConfig(workers="auto").worker_range() is None
    assert ClusterConfig(workers=3).worker_range() == (3, 3)
    assert ClusterConfig(workers="1..4").worker_range() == (1, 4)


def test_the_step_follows_eps_unless_given() -> None:
    assert build("--threat.eps", "8/255").step_size() == pytest.approx(2 / 255)
    assert build("--attack.step_size", "0.01").step_size() == 0.01
    assert build("--attack.steps", "1", "--threat.eps", "0.1").step_size() == 0.1


def test_another_threat_drops_the_step_size_of_the_first() -> None:
    recipe = read_recipe("mnist-lenet")
    same = build_config([recipe, {"threat.eps": "3/10", "threat.norm": "Linf"}])
    assert same.step_size() == 0.01
    for threat in ({"threat.eps": 0.4}, {"threat.norm": "L2"}, {"threat.eps": "2/5"}):
        config = build_config([recipe, threat])
        assert config.step_size() == pytest.approx(2.5 * config.threat.eps / 40)
        own = build_config([recipe, threat | {"attack.step_size": 0.02}])
        assert own.step_size() == 0.02


def test_recipes_with_ten_steps_let_them_follow_eps() -> None:
    recipe = read_recipe("cifar10-preactresnet18")
    assert build_config([recipe]).step_size() == 2 / 255
    changed = build_config([recipe, {"threat.eps": "4/255"}])
    assert changed.step_size() == 1 / 255


def test_steps_grow_to_those_asked_for() -> None:
    attack = build("--attack.steps", "10", "--attack.first_steps", "3").attack
    assert [attack.steps_at(part / 4) for part in range(5)] == [3, 6, 10, 10, 10]
    assert build("--attack.steps", "7").attack.steps_at(0.0) == 7
    with pytest.raises(UserError, match=r"attack.first_steps is 11; .*attack.steps, which is 10"):
        build("--attack.steps", "10", "--attack.first_steps", "11")
