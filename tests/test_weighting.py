"""Weights by fragility."""

from __future__ import annotations

import pytest
import torch

from dynat_ray.perturb.objectives import kl_divergence
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import StopRule
from dynat_ray.perturb.signals import signed_gap
from dynat_ray.perturb.threat import Threat
from dynat_ray.weighting import fragility, mean_over_attacked, softmax_weights


def all_of(values: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def test_weights_by_hand() -> None:
    kl = torch.tensor([0.0, 1.0, 2.0])
    every = all_of(kl)
    wide = softmax_weights(kl, 1.0, min_weight=0.0, max_weight=10.0, attacked=every)
    torch.testing.assert_close(wide, kl.softmax(dim=0) * 3)
    clipped = softmax_weights(kl, 1.0, min_weight=0.5, max_weight=1.5, attacked=every)
    expected = (kl.softmax(dim=0) * 3).clamp(0.5, 1.5)
    torch.testing.assert_close(clipped, expected / expected.mean())
    flat = softmax_weights(kl, 1e6, min_weight=0.5, max_weight=2.0, attacked=every)
    torch.testing.assert_close(flat, torch.ones(3))


def test_only_attacked_samples_count() -> None:
    kl = torch.tensor([0.0, 5.0, 1.0, 2.0])
    attacked = torch.tensor([True, False, True, True])
    weights = softmax_weights(kl, 1.0, min_weight=0.0, max_weight=10.0, attacked=attacked)
    assert float(weights[1]) == 0
    torch.testing.assert_close(weights[attacked], kl[attacked].softmax(dim=0) * 3)
    losses = torch.tensor([1.0, 100.0, 2.0, 4.0])
    over_batch = (mean_over_attacked(weights, attacked) * losses).mean()
    torch.testing.assert_close(over_batch, (weights * losses)[attacked].mean())


def test_few_attacked_samples_count_as_a_sixth() -> None:
    attacked = torch.arange(24) == 3
    weights = mean_over_attacked(torch.ones(24), attacked)
    assert weights.sum() == weights[3] == 6
    nothing = torch.zeros(24, dtype=torch.bool)
    none = softmax_weights(torch.zeros(24), 1.0, min_weight=0.5, max_weight=2.0, attacked=nothing)
    assert not mean_over_attacked(none, nothing).any()


def test_large_values_do_not_overflow() -> None:
    values = torch.tensor([0.0, 1e6])
    weights = softmax_weights(values, 1.0, min_weight=0.5, max_weight=2.0, attacked=all_of(values))
    assert bool(torch.isfinite(weights).all())
    assert float(weights.mean()) == pytest.approx(1)


def test_what_is_not_finite_weighs_nothing_and_changes_no_other() -> None:
    kl = torch.tensor([0.5, float("nan"), 2.0, float("inf")])
    weights = softmax_weights(kl, 1.0, min_weight=0.5, max_weight=2.0, attacked=all_of(kl))
    there = torch.tensor([True, False, True, False])
    alone = softmax_weights(kl[there], 1.0, 0.5, 2.0, attacked=all_of(kl[there]))
    torch.testing.assert_close(weights[there], alone)
    assert weights[~there].tolist() == [0, 0]


@pytest.mark.parametrize("slope", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("stop", [None, StopRule(margin=0.3)])
@pytest.mark.parametrize("budgets", ["even", "by distance"])
def test_a_sample_nearer_the_boundary_never_weighs_less(
    slope: float, stop: StopRule | None, budgets: str
) -> None:
    """A linear classifier of one pixel: the distance to the boundary is known exactly."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-slope / 2], [slope / 2]]))  # type: ignore[union-attr]
        model[1].bias.copy_(torch.tensor([slope / 4, -slope / 4]))  # type: ignore[union-attr]
    distances = torch.linspace(0.005, 0.4, 80)
    images, labels = (0.5 + distances).view(-1, 1, 1, 1), torch.ones(80, dtype=torch.long)
    ratios = torch.ones(80)
    if budgets == "by distance":
        ratios = torch.linspace(0.5, 1.5, 80)
    eps = 0.1 * ratios
    step = eps / 4
    clean = model(images).detach()
    attack = PGD(
        threat=Threat("Linf", 0.1), step_size=0.025, steps=10, random_start="none", stop=stop
    )
    outcome = attack(model, images, labels, ratios=ratios)
    kl = kl_divergence(clean.log_softmax(1), outcome.logits.log_softmax(1))
    reach = torch.minimum(outcome.steps * step, eps) / 0.1
    found = fragility(kl, signed_gap(clean.softmax(1), labels), reach)
    weights = softmax_weights(found, 1.0, 0.5, 2.0, all_of(found))
    assert bool((weights.diff() <= 1e-4).all())
    assert float(weights[0]) > float(weights[-1])
