"""AutoAttack and its parts against pyautoattack called directly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack

from dynat_ray.attacks import apgd, fab, registry, square
from dynat_ray.attacks.registry import Attack, get_attack
from dynat_ray.attacks.stages import Setting, target_count
from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.evaluation.shards import Shard, evaluate_shard, shard_seed
from dynat_ray.perturb.threat import Threat
from tests.quick_attack import square_queries
from tests.victim import EPS, Victim, train_victim


@pytest.fixture
def queries(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many Square makes within our AutoAttack."""
    with square_queries(request.param):
        yield request.param


def library(
    model: torch.nn.Module,
    norm: Norm,
    eps: float,
    seed: int,
    version: str,
    queries: int,
    iterations: int,
) -> AutoAttack:
    """The library's attack, with as many target classes as there are at most."""
    attack = AutoAttack(model, norm=norm, eps=eps, seed=seed, version=version)
    attack.square.n_queries = queries
    attack.fab.n_iter = iterations
    for each in (attack.apgd, attack.apgd_targeted):
        # Its checkpoints are set when it is made.
        shorter = type(each)(model, norm=norm, eps=eps, n_iter=iterations)
        for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
            setattr(each, name, getattr(shorter, name))
    with torch.no_grad():
        wrong = model(torch.zeros(1, 1, 8, 8)).shape[1] - 1
    attack.apgd_targeted.n_target_classes = min(5 if norm == "L1" else 9, wrong)
    attack.fab.n_target_classes = min(9, wrong)
    return attack


@pytest.mark.parametrize("version", ["standard", "rand"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_parameters_are_the_librarys(
    monkeypatch: pytest.MonkeyPatch, norm: Norm, version: str
) -> None:
    """The tests below compare shorter runs: fewer iterations, queries and draws."""
    made: list[Any] = []

    def keep(attack: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        made.append(attack)
        return images

    def keep_queries(*arguments: Any) -> torch.Tensor:
        made.append(SimpleNamespace(n_queries=arguments[-1], p_init=square._FIRST_SHARE))
        images: torch.Tensor = arguments[1]
        return images

    for module in (apgd, square):
        monkeypatch.setattr(module, "run_library_attack", keep)
    monkeypatch.setattr(square, "_linf_search", keep_queries)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 12))
    images = torch.rand(4, 1, 8, 8)
    at = Setting(threat=Threat(norm, 0.5), classes=12, seed=3)
    direct = AutoAttack(model, norm=norm, eps=0.5, seed=3, version=version)
    stages = get_attack("autoattack" if version == "standard" else "autoattack-rand").stages
    assert [stage.name for stage in stages] == direct.attacks_to_run
    library = {"apgd-t": direct.apgd_targeted, "square": direct.square}
    for stage in stages:
        if stage.name == "fab-t":
            continue
        stage.perturb(model, images, model(images).argmax(dim=1), at)
        theirs = library.get(stage.name, direct.apgd)
        if theirs is direct.apgd:
            theirs.loss = stage.name.removeprefix("apgd-")
        names = vars(theirs).keys() - {"model", "predict", "logger", "device"}
        if stage.name == "square" and norm == "Linf":
            # Ours, which has no more of them.
            names = {"n_queries", "p_init"}
        for name in names:
            assert getattr(made[-1], name) == getattr(theirs, name), (stage.name, name)
    assert direct.square.n_queries == 5000
    assert direct.fab.n_iter == fab._ITERATIONS
    assert direct.fab.alpha_max == fab._ALPHA_MAX
    assert (direct.fab.eta, direct.fab.beta) == (fab._OVERSHOOT, fab._BACKWARD)
    assert direct.fab.n_target_classes == target_count(12) == target_count(1000)


@pytest.mark.parametrize(
    ("kind", "version", "norm", "eps", "queries"),
    [
        ("robust", "standard", "Linf", EPS, 500),
        # Under L2 ours is the library's.
        ("robust_few", "standard", "L2", 0.8, 200),
        ("robust_few", "standard", "L1", 1.3, 200),
        ("plain", "rand", "Linf", EPS, 200),
    ],
    indirect=["queries"],
)
def test_a_shard_is_exactly_what_the_library_does(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    version: str,
    norm: Norm,
    eps: float,
    queries: int,
    few_iterations: int,
) -> None:
    victim: Victim = request.getfixturevalue(kind)
    images, labels = victim.images[:16], victim.labels[:16]
    name = "autoattack" if version == "standard" else "autoattack-rand"
    if version == "rand":
        stages = tuple(apgd.AutoPgd(loss, draws=5) for loss in ("ce", "dlr"))
        monkeypatch.setitem(registry._FIXED, name, replace(get_attack(name), stages=stages))
    threat = Threat(norm, eps)
    shard = Shard(5, (threat,), np.arange(16), (name,))
    ours = evaluate_shard(victim.model, images, labels, shard, seed=3)[threat][name]
    direct = library(victim.model, norm, eps, shard_seed(3, 5), version, queries, few_iterations)
    if version == "rand":
        direct.apgd.eot_iter = 5
    with torch.random.fork_rng():
        _, predicted = direct.run_standard_evaluation(images, labels, batch_size=100)
    assert ours.predicted.tolist() == predicted.tolist()
    assert 0 < (ours.fooled_by == -1).sum() < 16


@pytest.mark.parametrize("queries", [200], indirect=True)
def test_sharded_autoattack_agrees_with_the_library(
    robust_few: Victim, queries: int, few_iterations: int
) -> None:
    """Other seeds and other batches may decide a sample on the edge otherwise, hardly any."""
    images, labels = robust_few.images[:40], robust_few.labels[:40]
    eps = 0.25
    found = evaluate_attacks(
        robust_few.model, images, labels, ["autoattack"], Threat("Linf", eps), batch_size=20
    )["autoattack"]
    direct = library(robust_few.model, "Linf", eps, 0, "standard", queries, few_iterations)
    with torch.random.fork_rng():
        _, predicted = direct.run_standard_evaluation(images, labels, batch_size=200)
    agreeing = found.correct == (predicted == labels).numpy()
    assert (~agreeing).sum() <= 1
    assert 5 < found.correct.sum() < 35


@pytest.mark.parametrize(
    ("attack", "classes", "expected"),
    [
        ("apgd-t", 2, "targeted margin"),
        ("apgd-t", 3, "targeted margin"),
        ("apgd-t", 4, ""),
        ("apgd-dlr", 2, "margin"),
        ("apgd-dlr", 3, ""),
        ("fab-t", 2, ""),
        ("square", 2, ""),
    ],
)
def test_few_classes(
    monkeypatch: pytest.MonkeyPatch,
    few_iterations: int,
    attack: str,
    classes: int,
    expected: str,
) -> None:
    alone = Attack("square", (square.Square(queries=300),), costly=True)
    monkeypatch.setitem(registry._FIXED, "square", alone)
    victim = _of_few_classes(classes)
    images, labels = victim.images[:40], victim.labels[:40]
    found = evaluate_attacks(victim.model, images, labels, [attack], Threat("Linf", 0.4))[attack]
    assert (expected in found.note) if expected else not found.note
    clean = (victim.model(images).argmax(dim=1) == labels).numpy()
    assert clean.mean() > 0.95
    # At this radius a plain model does not stand: an attack that does nothing would be seen.
    assert found.correct.mean() < 0.5


@cache
def _of_few_classes(classes: int) -> Victim:
    return train_victim(classes, steps=60, eps=0.0)


def test_targeted_attacks_take_all_wrong_classes() -> None:
    """A model whose only weak spot is the least likely class."""
    model = _OneWeakClass()
    images = torch.full((4, 1, 4, 4), 0.5)
    labels = torch.zeros(4, dtype=torch.long)
    found = evaluate_attacks(model, images, labels, ["apgd-t"], Threat("Linf", 0.1))["apgd-t"]
    assert (found.predicted == 4).all()


class _OneWeakClass(torch.nn.Module):
    """Five classes; only the last logit moves with the image, steeply once it moves at all."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.flatten(1).mean(dim=1, keepdim=True)
        fixed = images.new_tensor([1.0, 0.9, 0.8, 0.7]).expand(len(images), 4)
        return torch.cat([fixed, 60 * (mean - 0.5)], dim=1)


def test_images_too_small_for_square_under_l2(plain: Victim) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    images, labels = torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([9.0, 0, 0]))
    with pytest.raises(UserError, match="images of 4 x 4 pixels"):
        evaluate_attacks(model, images, labels, ["square"], Threat("L2", 0.1))
