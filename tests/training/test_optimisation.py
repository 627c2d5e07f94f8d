"""Learning-rate schedules and weight perturbation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dynat_ray.config import OptimConfig
from dynat_ray.models import build_model
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.how_far import HowFar
from dynat_ray.training.optimisation import build_optimizer, learning_rate, set_learning_rate
from dynat_ray.training.weight_perturbation import perturbed_weights


def rate_at(config: OptimConfig, epochs: float, all_epochs: int) -> float:
    """Returns the rate when so many epochs of all are done."""
    return learning_rate(config, HowFar.at(RunLength(all_epochs), epochs, units=0.0))


def test_piecewise() -> None:
    config = OptimConfig(lr=1.0, milestones=[0.5, 0.75], decay=0.1)
    rates = [rate_at(config, epoch, 100) for epoch in (0, 49.9, 50, 74.9, 75, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    config = OptimConfig(lr=0.4, schedule="constant", warmup_epochs=4)
    assert rate_at(config, 2, 10) == pytest.approx(0.2, rel=1e-2)
    assert rate_at(config, 4, 10) == 0.4


def test_cosine_and_one_cycle_end_at_zero() -> None:
    for schedule in ("cosine", "one-cycle"):
        config = OptimConfig(lr=1.0, schedule=schedule)  # type: ignore[arg-type]
        rates = [rate_at(config, epoch / 10, 10) for epoch in range(101)]
        assert max(rates) == pytest.approx(1.0)
        assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rate_at(OptimConfig(lr=1.0, schedule="cosine"), 5, 10) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["piecewise", "cosine", "one-cycle", "constant"])
@pytest.mark.parametrize("warmup", [0.5, 2.0, 8.0])
def test_no_rate_jumps_where_the_warm_up_ends(schedule: Any, warmup: float) -> None:
    config = OptimConfig(lr=1.0, schedule=schedule, warmup_epochs=warmup)
    rates = [rate_at(config, warmup + step, 20) for step in (-1e-3, 0.0, 1e-3)]
    assert rates == pytest.approx([1, 1, 1], abs=0.01)
    if schedule in ("cosine", "one-cycle"):
        assert rate_at(config, 20, 20) == pytest.approx(0, abs=1e-9)
        falling = [rate_at(config, warmup + (20 - warmup) * k / 9, 20) for k in range(10)]
        assert falling == sorted(falling, reverse=True)


def test_weight_perturbation_by_hand() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    weight = network[0].weight
    before = {name: value.clone() for name, value in network.state_dict().items()}
    data = torch.randn(5, 3)

    def loss() -> torch.Tensor:
        return network(data).square().sum() + network[0].weight.sum()

    (gradient,) = torch.autograd.grad(loss(), weight)
    network.load_state_dict(before)
    with perturbed_weights(network, 0.1, lambda: loss().backward()):
        expected = before["0.weight"] + 0.1 * before["0.weight"].norm() * gradient / gradient.norm()
        torch.testing.assert_close(weight.detach(), expected)
        assert weight.grad is None
        assert torch.equal(network[0].bias, before["0.bias"])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_networks_of_a_method_learn_at_their_own_rate() -> None:
    network, extra = nn.Linear(2, 2), nn.Linear(3, 3)
    optimizer = build_optimizer(network, OptimConfig(lr=1.0), extra, 0.1)
    set_learning_rate(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in network.parameters()} == {0.5}
    assert {rates[id(p)] for p in extra.parameters()} == {0.05}
    decays = {
        id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]
    }
    assert decays[id(extra.weight)] > 0
    assert decays[id(extra.bias)] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", {"momentum": 0.7}),
        ("adamw", {"betas": (0.7, 0.999)}),
        ("muon", {"momentum": 0.7, "betas": (0.9, 0.95)}),
    ],
)
def test_momentum_is_the_optimisers_or_its_first_beta(name: str, expected: dict[str, Any]) -> None:
    config = OptimConfig(name=name, momentum=0.7)
    for group in build_optimizer(nn.Linear(2, 2), config, nn.Linear(3, 3)).param_groups:
        assert {key: group[key] for key in expected} == expected


def test_weight_decay_spares_what_the_architecture_spares() -> None:
    model = build_model(
        "vit_tiny_patch16_224",
        num_classes=3,
        channels=1,
        size=(32, 32),
        mean=[0.5],
        std=[0.5],
        kwargs={"depth": 1},
    )
    groups = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[id(model.backbone.pos_embed)] == decays[id(model.backbone.cls_token)] == 0
    assert decays[id(model.backbone.head.weight)] == 0.1
