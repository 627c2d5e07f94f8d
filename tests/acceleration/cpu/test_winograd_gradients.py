"""Gradients by Winograd's algorithm are those of direct convolutions, where training uses it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.acceleration.cpu.winograd import formats
from dynat_ray.acceleration.cpu.winograd.gradients import WinogradGradients
from dynat_ray.config import AttackConfig, TrainConfig
from dynat_ray.data import Batch
from dynat_ray.method_settings import method_settings
from dynat_ray.methods import MethodContext, build_method
from dynat_ray.models import build_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.training.step import Stepper, wrap

# In quotes, so that it is compiled when they run, and not by all who collect tests.
pytestmark = pytest.mark.skipif(
    "formats.library() is None", reason="no C++ compiler, or a processor it is not made for"
)


def _network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1, bias=False),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.Conv2d(48, 32, 3, padding=1),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return network.to(memory_format=torch.channels_last)


def _outcome(network: nn.Module, images: Tensor, winograd_: bool) -> tuple[Tensor, list[Tensor]]:
    network.zero_grad()
    with WinogradGradients() if winograd_ else nullcontext():
        logits = network(images)
        F.cross_entropy(logits.float(), torch.arange(len(images)) % 10).backward()
    return logits.detach(), [p.grad for p in network.parameters() if p.grad is not None]


def _names(output: Tensor) -> list[str]:
    """Returns the names of all nodes of a graph."""
    names, rest, seen = [], [output.grad_fn], set()
    while rest:
        node = rest.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            rest += [before for before, _ in node.next_functions]
    return names


def test_float32_has_the_same_gradients() -> None:
    network, images = _network(), torch.rand(8, 3, 16, 16)
    (logits, gradients), (expected, exact) = (_outcome(network, images, on) for on in (True, False))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert len(gradients) == len(exact) == len(list(network.parameters()))
    for own, other in zip(gradients, exact, strict=True):
        assert (own - other).norm() <= 1e-4 * other.norm() + 1e-6


@pytest.mark.parametrize("size", [(16, 16), (15, 9)])
def test_so_it_has_with_a_stride(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(128, 144, 3, stride=2, padding=1)
    features = torch.randn(30, 128, *size, requires_grad=True)
    direct = convolution(features)
    with WinogradGradients():
        outputs = convolution(features)
    assert "_ConvolveBackward" in _names(outputs)
    torch.testing.assert_close(outputs, direct, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(outputs)
    sources = (features, *convolution.parameters())
    found, exact = (torch.autograd.grad(each, sources, upstream) for each in (outputs, direct))
    for own, other in zip(found, exact, strict=True):
        assert (own - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("factors", [torch.bfloat16, torch.float32], ids=str)
def test_bf16_has_outputs_as_good_and_nearly_the_same_gradients(
    factors: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not formats.multiplies(torch.bfloat16):
        pytest.skip("this processor has no instructions for bfloat16, or better ones")
    monkeypatch.setattr(formats, "in_training", lambda _: factors)
    network, images = _network(), torch.rand(8, 3, 16, 16)
    exact, in_float32 = _outcome(network, images, False)
    with torch.autocast("cpu", torch.bfloat16):
        (logits, gradients), (expected, direct) = (
            _outcome(network, images, on) for on in (True, False)
        )

    def distance(one: list[Tensor], other: list[Tensor]) -> float:
        of = (torch.cat([g.flatten() for g in each]) for each in (one, other))
        first, second = of
        return float((first - second).norm() / second.norm())

    if factors == torch.bfloat16:
        assert torch.equal(logits, expected)
    assert distance([logits], [exact]) < 0.01
    assert distance([expected], [exact]) < 0.01
    assert all(g.dtype == torch.float32 for g in gradients)
    assert distance(gradients, in_float32) < 0.05
    assert distance(direct, in_float32) < 0.05


def test_only_convolutions_that_suit_it_take_part() -> None:
    network = _network()
    with WinogradGradients():
        assert _names(network(torch.rand(8, 3, 16, 16))).count("_ConvolveBackward") == 2
        # So few images that direct ones are as fast.
        assert "_ConvolveBackward" not in _names(network(torch.rand(1, 3, 16, 16)))
        with torch.no_grad():
            assert network(torch.rand(8, 3, 16, 16)).grad_fn is None
        network[2].requires_grad_(False)
        assert _names(network(torch.rand(8, 3, 16, 16))).count("_ConvolveBackward") == 1
    assert "_ConvolveBackward" not in _names(network(torch.rand(8, 3, 16, 16)))


@pytest.mark.parametrize(("factors", "expected"), [(torch.bfloat16, False), (torch.float32, True)])
def test_few_channels_take_part_where_direct_convolutions_are_slow(
    factors: torch.dtype, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not formats.multiplies(torch.bfloat16):
        pytest.skip("this processor has no instructions for bfloat16, or better ones")
    monkeypatch.setattr(formats, "in_training", lambda _: factors)
    convolution = nn.Conv2d(16, 16, 3, padding=1)
    with WinogradGradients(), torch.autocast("cpu", torch.bfloat16):
        names = _names(convolution(torch.rand(8, 16, 16, 16)))
    assert ("_ConvolveBackward" in names) == expected


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    network, images = _network(), torch.rand(8, 3, 16, 16, requires_grad=True)
    with WinogradGradients():
        (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.square().sum().backward()


@pytest.mark.parametrize(
    ("method", "expected"), [("pgd_at", True), ("dynat", True), ("deep_defense", False)]
)
def test_a_training_step_uses_it_unless_it_differentiates_twice(
    method: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    gradient = torch.ops.dynat_ray.winograd_weight_gradient

    def counted(features: Tensor, upstream: Tensor, factors: torch.dtype) -> Tensor:
        calls.append(features.shape)
        return gradient(features, upstream, factors)

    monkeypatch.setattr(torch.ops.dynat_ray, "winograd_weight_gradient", counted)
    core = build_model(
        "preact_resnet10",
        num_classes=10,
        channels=3,
        size=(16, 16),
        mean=[0.5] * 3,
        std=[0.5] * 3,
        kwargs={"base_width": 32},
    )
    config = TrainConfig(precision="float32")
    context = MethodContext(
        threat=Threat("Linf", 8 / 255), attack=AttackConfig(steps=1), step_size=0.01, classes=10
    )
    stepper = Stepper(
        wrap(core.to(memory_format=torch.channels_last), config),
        build_method(method_settings()[method](), context),
        torch.optim.SGD(core.parameters(), lr=0.1),
        config,
        torch.device("cpu"),
    )
    images = torch.rand(16, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    stepper.step(Batch(images, torch.arange(16) % 10, torch.arange(16)), 0, 0, 16)
    assert bool(calls) is expected
