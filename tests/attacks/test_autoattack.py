"""AutoAttack and its parts against pyautoattack called directly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack

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
    model: torch.nn.Module, norm: Norm, eps: float, seed: int, version: str, queries: int
) -> AutoAttack:
    """The library's attack, with as many target classes as there are at most."""
    attack = AutoAttack(model, norm=norm, eps=eps, seed=seed, version=version)
    attack.square.n_queries = queries
    with torch.no_grad():
        wrong = model(torch.zeros(1, 1, 8, 8)).shape[1] - 1
    attack.apgd_targeted.n_target_classes = min(5 if norm == "L1" else 9, wrong)
    attack.fab.n_target_classes = min(9, wrong)
    return attack


@pytest.mark.parametrize(
    ("kind", "version", "norm", "eps", "queries"),
    [
        ("robust", "standard", "Linf", EPS, 5000),
        # Under L2 ours is the library's.
        ("robust_few", "standard", "L2", 0.8, 500),
        ("robust_few", "standard", "L1", 1.3, 500),
        ("plain", "rand", "Linf", EPS, 5000),
    ],
    indirect=["queries"],
)
def test_a_shard_is_exactly_what_the_library_does(
    request: pytest.FixtureRequest, kind: str, version: str, norm: Norm, eps: float, queries: int
) -> None:
    victim: Victim = request.getfixturevalue(kind)
    images, labels = victim.images[:16], victim.labels[:16]
    name = "autoattack" if version == "standard" else "autoattack-rand"
    threat = Threat(norm, eps)
    shard = Shard(5, (threat,), np.arange(16), (name,))
    ours = evaluate_shard(victim.model, images, labels, shard, seed=3)[threat][name]
    direct = library(victim.model, norm, eps, shard_seed(3, 5), version, queries)
    with torch.random.fork_rng():
        _, predicted = direct.run_standard_evaluation(images, labels, batch_size=100)
    assert ours.predicted.tolist() == predicted.tolist()
    assert 0 < (ours.fooled_by == -1).sum() < 16


@pytest.mark.parametrize("queries", [500], indirect=True)
def test_sharded_autoattack_agrees_with_the_library(robust_few: Victim, queries: int) -> None:
    """Other seeds and other batches may decide a sample on the edge otherwise, hardly any."""
    images, labels = robust_few.images[:40], robust_few.labels[:40]
    eps = 0.25
    found = evaluate_attacks(
        robust_few.model, images, labels, ["autoattack"], Threat("Linf", eps), batch_size=20
    )["autoattack"]
    direct = library(robust_few.model, "Linf", eps, 0, "standard", queries)
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
def test_few_classes(attack: str, classes: int, expected: str) -> None:
    victim = train_victim(classes, steps=60, eps=0.0)
    images, labels = victim.images[:40], victim.labels[:40]
    found = evaluate_attacks(victim.model, images, labels, [attack], Threat("Linf", 0.4))[attack]
    assert (expected in found.note) if expected else not found.note
    clean = (victim.model(images).argmax(dim=1) == labels).numpy()
    assert clean.mean() > 0.95
    # At this radius a plain model does not stand: an attack that does nothing would be seen.
    assert found.correct.mean() < 0.5


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
