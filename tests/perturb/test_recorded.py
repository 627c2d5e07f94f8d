"""Attacks whose passes a GPU replays find what they find without, and know when not to replay."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.perturb import recorded
from dynat_ray.perturb.objectives import ObjectiveName, cross_entropy, cw_margin
from dynat_ray.perturb.pgd import AttackOutcome, StopRule, pgd
from dynat_ray.perturb.recorded import InputGradients
from dynat_ray.perturb.threat import get_ball

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class _Told:
    """Stands in for a recording on a machine without a GPU: tells what was made and replayed."""

    def __init__(self, network: nn.Module, objective: Any, inputs: Any) -> None:
        self.network, self.objective = network, objective
        MADE.append(inputs[0].shape)

    def replay(self, inputs: Any) -> tuple[Tensor, Tensor]:
        REPLAYED.append(inputs[0].shape)
        return recorded._compute(self.network, self.objective, *inputs)


MADE: list[torch.Size] = []
REPLAYED: list[torch.Size] = []


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_Recording", _Told)
    monkeypatch.setattr(recorded, "_can_record", lambda images: True)
    MADE.clear()
    REPLAYED.clear()


def _gradient(network: nn.Module, size: int, objective: Any = cross_entropy) -> None:
    gradients = InputGradients(network, objective, record=True)
    gradients(torch.rand(size, 3, 2, 2), torch.zeros(size, dtype=torch.int64), None)


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.usefixtures("told")
def test_a_shape_is_recorded_when_it_comes_again_and_replayed_from_then_on() -> None:
    network = _linear()
    for size in (4, 4, 2, 4, 2):
        _gradient(network, size)
    assert [shape[0] for shape in MADE] == [4, 2]
    assert [shape[0] for shape in REPLAYED] == [4, 4, 2]


@pytest.mark.usefixtures("told")
def test_each_objective_is_recorded_and_no_function_of_others() -> None:
    network = _linear()
    for _ in range(2):
        for objective in (cross_entropy, cw_margin, lambda *inputs: cross_entropy(*inputs)):
            _gradient(network, 4, objective)
    assert len(MADE) == 2


@pytest.mark.usefixtures("told")
def test_weights_that_moved_are_recorded_anew() -> None:
    network = _linear()
    for _ in range(2):
        _gradient(network, 4)
    network.load_state_dict({name: 2 * value for name, value in network.state_dict().items()})
    _gradient(network, 4)
    assert len(MADE) == 1
    network[1].weight.data = network[1].weight.data.clone()
    for _ in range(2):
        _gradient(network, 4)
    assert len(MADE) == 2


@pytest.mark.usefixtures("told")
def test_a_network_with_hooks_is_not_recorded() -> None:
    network, calls = _linear(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        _gradient(network, 4)
    assert (len(MADE), len(calls)) == (0, 3)


@pytest.mark.usefixtures("told")
def test_what_can_not_be_recorded_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        MADE.append(torch.Size())
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    monkeypatch.setattr(recorded, "_Recording", refuse)
    network = _linear()
    _gradient(network, 4)
    with pytest.warns(UserWarning, match="CUDA graphs: operation not permitted"):
        _gradient(network, 4)
    _gradient(network, 4)
    assert len(MADE) == 1


def test_nothing_is_recorded_without_a_gpu() -> None:
    network = _linear()
    for _ in range(3):
        _gradient(network, 4)
    assert not recorded._RECORDINGS[network]._found


@on_gpu
@pytest.mark.parametrize("objective", ["ce", "kl", "cw"])
@pytest.mark.parametrize("stop", [None, StopRule(margin=0.0)])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_replays_what_it_computes(
    objective: ObjectiveName, stop: StopRule | None, precision: torch.dtype, compiled: bool
) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = timm.create_model("preact_resnet10", base_width=16, num_classes=10).cuda()
    network = network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(20):  # statistics of its own
            network(torch.rand(64, 3, 32, 32, device="cuda"))
    network.eval()
    core, network = network, torch.compile(network, dynamic=False) if compiled else network

    def attack(network: nn.Module, seed: int, record: bool) -> AttackOutcome:
        generator = torch.Generator("cuda").manual_seed(seed)
        images = torch.rand(64, 3, 32, 32, device="cuda", generator=generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", precision, enabled=precision == torch.bfloat16):
            with torch.no_grad():
                clean = core(images).float()
            return pgd(
                network,
                images,
                clean.argmax(dim=1),
                ball=get_ball("Linf"),
                eps=8 / 255,
                step_size=2 / 255,
                steps=5,
                objective=objective,
                random_start="gaussian",
                stop=stop,
                clean_logits=clean,
                keys=torch.arange(64, device="cuda"),
                record=record,
            )

    # Kernels may add up in another order, so that a gradient near 0 changes its sign; a compiler
    # changes more of them.
    least = 0.75 if compiled else 0.95
    for seed in range(3):
        plain, replayed = attack(core, seed, False), attack(network, seed, True)
        same = (plain.images - replayed.images).abs() < 1e-4
        assert float(same.float().mean()) > least
        assert float((plain.steps == replayed.steps).float().mean()) > least
        torch.testing.assert_close(plain.logits, replayed.logits, rtol=0.1, atol=0.02)
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.mul_(1.1)
    plain, replayed = attack(core, 0, False), attack(network, 0, True)
    torch.testing.assert_close(plain.logits, replayed.logits, rtol=0.1, atol=0.02)
