"""`threat.eps_growth`: training's radius grows, and every method's attack with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynat_ray.config import ThreatConfig
from dynat_ray.data import Batch
from dynat_ray.models import Classifier
from tests.methods.cases import KEYS, make

GROWTH = ThreatConfig(eps=0.2, eps_growth=0.5)


@pytest.mark.parametrize("name", ["pgd_at", "trades", "dynat"])
@pytest.mark.parametrize(("progress", "largest"), [(0.0, 0.0), (0.25, 0.1), (0.5, 0.2), (0.9, 0.2)])
def test_attacks_grow_in_a_straight_line(
    network: Classifier, batch: Batch, name: str, progress: float, largest: float
) -> None:
    method = make(name)
    whole = method.context
    method = type(method)(method.settings, replace(whole, growth=GROWTH))
    method.start_epoch(1, progress)
    assert method.context.step_size == pytest.approx(whole.step_size * largest / 0.2)
    prepared = method.prepare(network, batch, KEYS)
    assert prepared.adversarial is not None
    change = (prepared.adversarial - batch.images).abs().max().item()
    budget = prepared.record["eps"].max().item() if "eps" in prepared.record else largest
    assert change == pytest.approx(max(largest, budget), abs=1e-5) or name == "dynat"
    assert change <= max(largest, budget) + 1e-6
    assert (change > 0) == (largest > 0)


def test_without_growth_the_radius_is_always_whole() -> None:
    assert [ThreatConfig().share_at(progress) for progress in (0.0, 0.5, 1.0)] == [1, 1, 1]
    method = make("pgd_at")
    before = method.context
    method.start_epoch(0, 0.0)
    assert method.context is before
