"""`threat.combination: avg`: the mean of the losses under each norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from dynat_ray.config import ThreatConfig, TrainConfig
from dynat_ray.data import Batch
from dynat_ray.methods import Method, build_method
from dynat_ray.perturb.threat import Threat
from dynat_ray.training.step import StepOutcome, Stepper, wrap
from tests.methods.cases import make, tiny_classifier

L2, L1 = Threat("L2", 1.2), Threat("L1", 2.0)


def averaging(name: str) -> Method[Any]:
    plain = make(name)
    growth = ThreatConfig(eps=plain.context.threat.eps, combination="avg")
    context = replace(plain.context, growth=growth, further=(L2, L1))
    return build_method(plain.settings, context)


def under(name: str, threat: Threat) -> Method[Any]:
    """Returns the method under one norm alone, whose steps are the same part of the radius."""
    plain = make(name)
    step = plain.context.step_size / plain.context.threat.eps * threat.eps
    return build_method(plain.settings, replace(plain.context, threat=threat, step_size=step))


def stepped(method: Method[Any], largest: int = 0) -> tuple[StepOutcome, Tensor]:
    """Returns a step on eight images, and how far it moved the weights."""
    torch.manual_seed(0)
    model = tiny_classifier()
    before = parameters_to_vector(model.parameters()).clone()
    generator = torch.Generator().manual_seed(1)
    batch = Batch(torch.rand(8, 1, 4, 4, generator=generator), torch.arange(8) % 4, torch.arange(8))
    config = TrainConfig(micro_batch_size=largest)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    stepper = Stepper(wrap(model, config), method, optimizer, config, torch.device("cpu"))
    outcome = stepper.step(batch, 0, 0, 8)
    return outcome, parameters_to_vector(model.parameters()) - before


@pytest.mark.parametrize("name", ["pgd_at", "trades", "dynat"])
def test_a_step_is_the_mean_of_those_under_each_norm(name: str) -> None:
    own = make(name).context.threat
    single = [stepped(under(name, threat)) for threat in (own, L2, L1)]
    outcome, moved = stepped(averaging(name))
    torch.testing.assert_close(moved, torch.stack([m for _, m in single]).mean(0))
    torch.testing.assert_close(outcome.loss, torch.stack([o.loss for o, _ in single]).mean())
    assert not torch.allclose(single[0][1], single[1][1])
    # What is recorded of the samples is of the run's own norm.
    (part,), (alone,) = outcome.parts, single[0][0].parts
    torch.testing.assert_close(part.record, alone.record)


def test_parts_of_a_batch_come_under_every_norm() -> None:
    outcome, _ = stepped(averaging("pgd_at"), largest=4)
    assert [len(part.prepared.batch.labels) for part in outcome.parts] == [4, 4]
    assert torch.cat([p.prepared.batch.indices for p in outcome.parts]).tolist() == list(range(8))
    single, _ = stepped(make("pgd_at"))
    assert outcome.passes.units == pytest.approx(3 * single.passes.units)
