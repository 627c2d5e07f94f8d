"""Settings: where they come from, what is refused, what the message says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

from dynat_ray.config import (
    AttackConfig,
    ClusterConfig,
    DataConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from dynat_ray.errors import UserError
from dynat_ray.method_settings import method_settings
from dynat_ray.section import Section
from dynat_ray.settings import (
    build_config,
    describe_settings,
    dump_config,
    flatten,
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
        (["--threat.norm", "L0"], ["threat.norm", "L0", "Linf", "L2", "L1"]),
        (["--threat.norms", "L2:0.5,Linf:0.1"], ["threat.norms", "Linf:0.1", "L2, L1"]),
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
        (["--threat.eps", "8"], ["threat.eps 8 under Linf", "8/255"]),
        (["--optim.lr", "inf"], ["optim.lr", "finite"]),
        (["--optim.milestones", "0.5,1.5"], ["optim.milestones", "0.5,1.5", "in (0, 1)"]),
        (["--method.beta", "-1"], ["method.beta", "-1", "0 or more"]),
        (["--method.eps_max_ratio", "0.5"], ["method.eps_max_ratio", "0.5", "at least 1"]),
        (["--cluster.max_failures", "-2"], ["cluster.max_failures", "-2", "-1, 0 or more"]),
        (["--cluster.gpu", "2"], ["cluster.gpu", "2", "true or false", "auto"]),
        (["--model.kwargs", "3"], ["model.kwargs", "3", "mapping"]),
        (["--train.compile", "3"], ["train.compile", "3", "true or false"]),
        (["--method.name", "mail", "--method.slope", "x"], ["method.slope", "x", "null"]),
    ],
)
def test_mistakes_name_key_value_and_what_is_allowed(
    arguments: list[str], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        build(*arguments)
    for word in words:
        assert word in str(caught.value)


def test_the_last_layer_says_how_long_a_run_is() -> None:
    recipe = {"train.epochs": 20}
    by_compute = build_config([recipe, {"train.compute": "440"}])
    assert (by_compute.train.epochs, by_compute.train.compute) == (None, 440.0)
    # What a run has written down is read again, alone or on top of a recipe.
    written = flatten(yaml.safe_load(dump_config(by_compute)))
    assert build_config([recipe, written]) == build_config([written]) == by_compute
    by_epochs = build_config([recipe, written, {"train.epochs": 3}])
    assert (by_epochs.train.epochs, by_epochs.train.compute) == (3, None)
    with pytest.raises(UserError, match="train.epochs and train.compute are both given"):
        build_config([recipe, {"train.compute": 440, "train.epochs": 20}])


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (TrainConfig, {"compute": 9.0}, "train.epochs and train.compute are both given"),
        (TrainConfig, {"epochs": None}, "train.epochs has no value"),
        (TrainConfig, {"epochs": None, "compute": 0}, "train.compute is 0; .* more than 0"),
        (TrainConfig, {"epochs": 0}, "train.epochs is 0; it must be a whole number, at least 1"),
        (OptimConfig, {"milestones": [0.5, 1]}, r"optim.milestones is \[0.5, 1\]"),
        (DataConfig, {"extra_fraction": 0.5}, "extra_path"),
        (DataConfig, {"loader": "cv2"}, "data.loader is 'cv2'; .*auto, ffcv, memory"),
        (AttackConfig, {"growth": 0}, "attack.growth is 0"),
        (method_settings()["dynat"], {"min_steps": 1.5}, "method.min_steps is 1.5"),
        (method_settings()["mwpb"], {"alpha": float("nan")}, "method.alpha is nan"),
    ],
)
def test_a_section_made_in_python_refuses_the_same(
    section: type[Section], values: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        section(**values)


@pytest.mark.parametrize("name", method_settings())
def test_values_are_plain_and_travel_to_workers(name: str) -> None:
    config = build("--method.name", name, "--cluster.workers", "1..4", "--optim.milestones", "0.5")
    plain = {int, float, str, bool, list, dict, type(None)}
    for key, value in flatten(asdict(config)).items():
        inside = value if isinstance(value, list) else []
        assert {type(value), *map(type, inside)} <= plain, key
    assert cloudpickle.loads(cloudpickle.dumps(config)) == config


@pytest.mark.parametrize("name", method_settings())
def test_every_setting_is_described(name: str) -> None:
    settings = [each for group in describe_settings(name).values() for each in group]
    config = build("--method.name", name)
    assert [each.key for each in settings] == list(flatten(asdict(config)))
    for each in settings:
        assert each.allowed, each.key
        assert each.default, each.key
        assert each.sentence.endswith((".", ")")), each.key


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


def test_arguments_of_the_model_join_those_of_the_layer_below() -> None:
    below = {"model.kwargs": {"base_width": 16}}
    config = build_config([below, {"model.kwargs.act_layer": "silu", "model.kwargs.depth": "3"}])
    assert config.model.kwargs == {"base_width": 16, "act_layer": "silu", "depth": 3}
    assert below == {"model.kwargs": {"base_width": 16}}
    nested = build_config([below, {"model.kwargs.norm.eps": "0.1"}])
    assert nested.model.kwargs == {"base_width": 16, "norm": {"eps": 0.1}}
    with pytest.raises(UserError, match="base_width is 16"):
        build_config([below, {"model.kwargs.base_width.x": "1"}])
    whole = [{"model.kwargs.depth": "3"}, below, {"model.kwargs": "{width: 2}"}]
    assert build_config(whole).model.kwargs == {"width": 2}


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
