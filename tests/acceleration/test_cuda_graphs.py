"""Attacks whose passes a GPU replays find what they find without, and know when not to replay."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.acceleration import cuda_graphs
from dynat_ray.acceleration.cuda_graphs import InputGradients
from dynat_ray.forward_units import Passes, counting
from dynat_ray.perturb.objectives import ObjectiveName, cross_entropy, get_objective
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import AttackOutcome, StopRule
from dynat_ray.perturb.threat import Threat

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class _CountedGraph:
    """Stands in for a graph on a machine without a GPU: tells what was captured and replayed."""

    def __init__(self, network: nn.Module, objective: Any, inputs: Any) -> None:
        self.network, self.objective = network, objective
        CAPTURED.append(inputs[0].shape)

    def replay(self, inputs: Any) -> tuple[Tensor, Tensor]:
        REPLAYED.append(inputs[0].shape)
        return cuda_graphs._compute(self.network, self.objective, *inputs)


CAPTURED: list[torch.Size] = []
REPLAYED: list[torch.Size] = []


@pytest.fixture
def counted_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_Graph", _CountedGraph)
    monkeypatch.setattr(cuda_graphs, "_can_capture", lambda images: True)
    CAPTURED.clear()
    REPLAYED.clear()


def _gradient(network: nn.Module, size: int, objective: Any = cross_entropy) -> None:
    gradients = InputGradients(network, objective, capture=True)
    gradients(torch.rand(size, 3, 2, 2), torch.zeros(size, dtype=torch.int64), None)


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.usefixtures("counted_graphs")
def test_a_shape_is_captured_when_it_comes_again_and_replayed_from_then_on() -> None:
    network = _linear()
    for size in (4, 4, 2, 4, 2):
        _gradient(network, size)
    assert [shape[0] for shape in CAPTURED] == [4, 2]
    assert [shape[0] for shape in REPLAYED] == [4, 4, 2]


@pytest.mark.usefixtures("counted_graphs")
def test_a_replay_counts_as_what_it_computes() -> None:
    network = _linear()
    _gradient(network, 4)  # it counts itself, if it is a classifier
    with counting() as passes:
        _gradient(network, 4)
        _gradient(network, 4)
    assert passes == Passes(forward=8, image_gradients=8)


@pytest.mark.usefixtures("counted_graphs")
def test_each_objective_is_captured_and_no_function_of_others() -> None:
    network = _linear()
    objectives: list[Any] = ["ce", "cw", lambda *inputs: cross_entropy(*inputs)]
    for objective in objectives:
        attack = PGD(
            threat=Threat("Linf", 0.1),
            step_size=0.05,
            steps=3,
            objective=objective,
            cuda_graphs=True,
        )
        attack(network, torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64))
    assert len(CAPTURED) == 2


@pytest.mark.usefixtures("counted_graphs")
def test_weights_that_moved_are_captured_anew() -> None:
    network = _linear()
    for _ in range(2):
        _gradient(network, 4)
    network.load_state_dict({name: 2 * value for name, value in network.state_dict().items()})
    _gradient(network, 4)
    assert len(CAPTURED) == 1
    network[1].weight.data = network[1].weight.data.clone()
    for _ in range(2):
        _gradient(network, 4)
    assert len(CAPTURED) == 2


@pytest.mark.usefixtures("counted_graphs")
def test_a_network_with_hooks_is_not_captured() -> None:
    network, calls = _linear(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        _gradient(network, 4)
    assert (len(CAPTURED), len(calls)) == (0, 3)


@pytest.mark.usefixtures("counted_graphs")
def test_what_can_not_be_captured_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        CAPTURED.append(torch.Size())
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    monkeypatch.setattr(cuda_graphs, "_Graph", refuse)
    network = _linear()
    _gradient(network, 4)
    with pytest.warns(UserWarning, match="CUDA graphs: operation not permitted"):
        _gradient(network, 4)
    _gradient(network, 4)
    assert len(CAPTURED) == 1


def test_nothing_is_captured_without_a_gpu() -> None:
    network = _linear()
    for _ in range(3):
        _gradient(network, 4)
    assert not cuda_graphs._GRAPHS[network]._found


def _network() -> nn.Module:
    torch.manual_seed(0)
    network = timm.create_model("preact_resnet10", base_width=16, num_classes=10).to(DEVICE)
    network = network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(20):  # statistics of its own
            network(torch.rand(64, 3, 32, 32, device=DEVICE))
    return network.eval()


def _images(seed: int) -> Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    images = torch.rand(64, 3, 32, 32, device=DEVICE, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def _attack(
    network: nn.Module,
    images: Tensor,
    clean: Tensor,
    objective: ObjectiveName,
    precision: torch.dtype,
    stop: StopRule | None,
    *,
    replay: bool,
) -> AttackOutcome:
    attack = PGD(
        threat=Threat("Linf", 8 / 255),
        step_size=2 / 255,
        steps=5,
        objective=objective,
        random_start="gaussian",
        stop=stop,
        cuda_graphs=replay,
    )
    with torch.autocast(DEVICE, precision, enabled=precision == torch.bfloat16):
        return attack(
            network,
            images,
            clean.argmax(dim=1),
            clean_logits=clean,
            keys=torch.arange(64, device=DEVICE),
        )


@on_gpu
@pytest.mark.parametrize("objective", ["ce", "kl", "cw"])
@pytest.mark.parametrize("stop", [None, StopRule(margin=0.0)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_gpu_replays_what_it_computes(
    objective: ObjectiveName, stop: StopRule | None, precision: torch.dtype
) -> None:
    network = _network()

    def both(seed: int) -> tuple[AttackOutcome, AttackOutcome]:
        images = _images(seed)
        with torch.no_grad():
            clean = network(images)
        plain, replayed = (
            _attack(network, images, clean, objective, precision, stop, replay=replay)
            for replay in (False, True)
        )
        torch.testing.assert_close(plain.logits, replayed.logits, rtol=0.1, atol=0.02)
        return plain, replayed

    for seed in range(3):
        plain, replayed = both(seed)
        # Kernels may add up in another order, so that a gradient near 0 changes its sign.
        same = (plain.images - replayed.images).abs() < 1e-4
        assert float(same.float().mean()) > 0.95
        assert float((plain.steps == replayed.steps).float().mean()) > 0.95
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    both(0)


@on_gpu
@pytest.mark.parametrize("objective", ["ce", "kl", "cw"])
@pytest.mark.parametrize("stop", [None, StopRule(margin=0.0)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_compiled_and_replayed_attacks_are_as_strong(
    objective: ObjectiveName, stop: StopRule | None, precision: torch.dtype
) -> None:
    """The single signs of an untrained network's gradients are noise; what they do is not."""
    torch._dynamo.reset()
    core = _network()
    compiled = torch.compile(core, dynamic=False)

    def gain(network: nn.Module, images: Tensor, *, replay: bool) -> float:
        """Returns what an attack adds to the objective, of the network itself in float32."""
        with torch.no_grad():
            clean = core(images)
            labels, log_probs = clean.argmax(dim=1), clean.log_softmax(dim=1)
            found = _attack(network, images, clean, objective, precision, stop, replay=replay)
            before, after = (
                get_objective(objective)(logits, labels, log_probs).mean()
                for logits in (clean, core(found.images))
            )
        return float(after - before)

    for factor in (1.0, 1.0, 1.1):
        with torch.no_grad():
            for parameter in core.parameters():
                parameter.mul_(factor)
        images = _images(0)
        expected = gain(core, images, replay=False)
        assert expected > 0
        assert gain(compiled, images, replay=True) == pytest.approx(expected, rel=0.2)
