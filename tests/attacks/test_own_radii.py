"""Stages whose batch holds samples of several radii."""

from __future__ import annotations

import pytest
import torch

from dynat_ray.attacks.apgd import AutoPgd, TargetedAutoPgd
from dynat_ray.attacks.fab import TargetedFab
from dynat_ray.attacks.square import Square
from dynat_ray.attacks.stages import MixingStage, Setting, Stage, perturb_each
from dynat_ray.config import Norm
from dynat_ray.perturb.threat import Threat
from tests.victim import EPS, Victim

_SMALL, _LARGE = 0.3 * EPS, 1.2 * EPS


def _right(victim: Victim) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = victim.images[:24], victim.labels[:24]
    keep = victim.model(images).argmax(dim=1) == labels
    return images[keep], labels[keep]


@pytest.mark.parametrize("stage", [TargetedAutoPgd(), TargetedFab(), Square(queries=150)])
def test_everyone_stays_within_its_own_radius_and_uses_it(
    robust: Victim, few_iterations: int, stage: Stage
) -> None:
    images, labels = _right(robust)
    at = Setting(threat=Threat("Linf", _LARGE), classes=10, seed=7)
    assert isinstance(stage, MixingStage)
    assert stage.mixes(robust.model, images, at)
    eps = torch.full(labels.shape, _SMALL, dtype=torch.float64)
    eps[::2] = _LARGE
    adversarial = perturb_each(stage, robust.model, images, labels, eps, at)
    sizes = (adversarial - images).abs().flatten(1).amax(dim=1)
    assert (sizes <= eps * (1 + 1e-5)).all()
    assert sizes[::2].max() > 2 * _SMALL
    fell = robust.model(adversarial).argmax(dim=1) != labels
    alone = torch.zeros_like(fell)
    for radius in (_SMALL, _LARGE):
        rows = eps == radius
        own = Setting(threat=Threat("Linf", radius), classes=10, seed=7)
        found = stage.perturb(robust.model, images[rows], labels[rows], own)
        alone[rows] = robust.model(found).argmax(dim=1) != labels[rows]
    assert alone.any()
    # Starts are drawn for the whole batch, so that one on the edge may fare otherwise.
    assert (fell != alone).sum() <= (0 if stage.name == "fab-t" else 1)


@pytest.mark.parametrize("stage", [TargetedAutoPgd(), TargetedFab(), Square(queries=150)])
def test_one_radius_for_all_is_the_plain_attack(
    robust: Victim, few_iterations: int, stage: MixingStage
) -> None:
    images, labels = _right(robust)
    at = Setting(threat=Threat("Linf", EPS), classes=10, seed=7)
    eps = images.new_full(labels.shape, EPS)
    mixed = stage.perturb_each(robust.model, images, labels, eps, at)
    assert torch.equal(mixed, stage.perturb(robust.model, images, labels, at))


@pytest.mark.parametrize(
    ("stage", "norm"), [(AutoPgd("ce"), "Linf"), (Square(queries=60), "L2")], ids=str
)
def test_a_stage_of_one_radius_runs_once_for_each(
    robust: Victim, few_iterations: int, stage: Stage, norm: Norm
) -> None:
    images, labels = _right(robust)
    at = Setting(threat=Threat(norm, 1.0), classes=10, seed=7)
    eps = torch.full(labels.shape, _SMALL, dtype=torch.float64)
    eps[::2] = _LARGE
    found = perturb_each(stage, robust.model, images, labels, eps, at)
    for radius in (_SMALL, _LARGE):
        rows = eps == radius
        own = Setting(threat=Threat(norm, radius), classes=10, seed=7)
        alone = stage.perturb(robust.model, images[rows], labels[rows], own)
        assert torch.equal(found[rows], alone)
