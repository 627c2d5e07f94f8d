"""Weights by fragility."""

from __future__ import annotations

import pytest
import torch

from dynat_ray.perturb.objectives import kl_divergence
from dynat_ray.perturb.pgd import StopRule, pgd
from dynat_ray.perturb.signals import signed_gap
from dynat_ray.perturb.threat import get_ball
from dynat_ray.weighting import fragility, softmax_weights


def test_weights_by_hand() -> None:
    kl = torch.tensor([0.0, 1.0, 2.0])
    wide = softmax_weights(kl, temperature=1.0, min_weight=0.0, max_weight=10.0)
    torch.testing.assert_close(wide, kl.softmax(dim=0) * 3)
    clipped = softmax_weights(kl, temperature=1.0, min_weight=0.5, max_weight=1.5)
    expected = (kl.softmax(dim=0) * 3).clamp(0.5, 1.5)
    torch.testing.assert_close(clipped, expected / expected.mean())
    flat = softmax_weights(kl, temperature=1e6, min_weight=0.5, max_weight=2.0)
    torch.testing.assert_close(flat, torch.ones(3))


def test_large_values_do_not_overflow() -> None:
    weights = softmax_weights(torch.tensor([0.0, 1e6]), 1.0, min_weight=0.5, max_weight=2.0)
    assert bool(torch.isfinite(weights).all())
    assert float(weights.mean()) == pytest.approx(1)


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
    eps = torch.full((80,), 0.1)
    if budgets == "by distance":
        eps = eps * torch.linspace(0.5, 1.5, 80)
    step, steps = eps / 4, 10
    clean = model(images).detach()
    outcome = pgd(
        model,
        images,
        labels,
        ball=get_ball("Linf"),
        eps=eps,
        step_size=step,
        steps=steps,
        random_start="none",
        stop=stop,
    )
    kl = kl_divergence(clean.log_softmax(1), outcome.logits.log_softmax(1))
    reach = torch.minimum(outcome.steps * step, eps) / 0.1
    found = fragility(kl, signed_gap(clean.softmax(1), labels), reach)
    weights = softmax_weights(found, 1.0, min_weight=0.5, max_weight=2.0)
    assert bool((weights.diff() <= 1e-4).all())
    assert float(weights[0]) > float(weights[-1])
