"""The twin that attacks run on gives the network's logits and gradients."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.acceleration.fixed_batch_norm import FixedBatchNorm
from dynat_ray.acceleration.modes import frozen
from dynat_ray.acceleration.twin import settled_weights, twin_of
from tests.acceleration.twin_cases import Awkward, frozen_twin, with_statistics


def _logits_and_gradient(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_(True)
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits.float().square().sum(), images)
    return logits.detach(), gradient


def _assert_same(model: nn.Module, twin: nn.Module, images: Tensor) -> None:
    with frozen(model):
        for theirs, own in zip(
            _logits_and_gradient(model, images), _logits_and_gradient(twin, images), strict=True
        ):
            torch.testing.assert_close(
                own, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max())
            )


def _norms(model: nn.Module) -> int:
    return sum(type(m) in (nn.BatchNorm2d, BatchNormAct2d) for m in model.modules())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("preact_resnet10", {"base_width": 8}),
        ("preact_resnet10", {"base_width": 8, "act_layer": "silu"}),
        ("preact_resnet50", {"base_width": 8}),
        ("resnet10t", {}),
        ("mobilenetv3_small_050", {}),
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
        ("lenet", {"in_chans": 1}),
    ],
)
def test_logits_and_gradients_are_the_networks(name: str, settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    # In float64: a rounding may switch a unit off.
    model = with_statistics(timm.create_model(name, num_classes=7, **settings)).double()
    side = 28 if name == "lenet" else 32
    images = torch.rand(3, 1 if name == "lenet" else 3, side, side, dtype=torch.float64)
    twin = frozen_twin(model, images)
    assert twin is not model
    assert _norms(twin) == 0
    _assert_same(model, twin, images)


def test_half_of_a_preact_network_is_fused_away() -> None:
    model = with_statistics(timm.create_model("preact_resnet18", base_width=8))
    twin = frozen_twin(model, torch.rand(2, 3, 32, 32))
    left = sum(isinstance(m, FixedBatchNorm) and not m.fused for m in twin.modules())
    assert (_norms(model), left) == (17, 9)


def test_weights_are_brought_up_to_date_and_shared() -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    twin = frozen_twin(model, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(images).square().sum().backward()
    optimizer.step()
    assert frozen_twin(model, images) is twin
    _assert_same(model, twin, images)
    own = {id(p) for p in model.parameters()}
    assert any(id(p) in own for p in twin.parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_weights_of_its_own_stay_where_they_are(autocast: bool) -> None:
    """Compiled graphs keep their inputs."""
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = [id(p) for p in frozen_twin(model, images).parameters()]
        assert [id(p) for p in frozen_twin(model, images).parameters()] == before


def test_while_weights_are_settled_a_twin_is_brought_up_to_date_once() -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    frozen_twin(model, images)
    with torch.no_grad():
        model.head.fc.weight.mul_(2)
    with settled_weights(model):
        twin = frozen_twin(model, images)
        _assert_same(model, twin, images)
        before = twin(images)
        with torch.no_grad():  # against what was promised, to see that nothing is looked at
            model.stages[0].blocks[0].conv1.weight.mul_(2)
        assert torch.equal(frozen_twin(model, images)(images), before)
    _assert_same(model, frozen_twin(model, images), images)


def test_tensors_that_were_replaced_are_noticed() -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    frozen_twin(model, images)
    other = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    model.load_state_dict(other.state_dict(), assign=True)
    _assert_same(model, frozen_twin(model, images), images)


def test_a_twin_of_a_twin_is_itself() -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    twin = frozen_twin(model, images)
    assert frozen_twin(twin, images) is twin


def test_a_twin_ends_with_its_network() -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    gone = weakref.ref(model)
    twin = weakref.ref(frozen_twin(model, torch.rand(2, 3, 32, 32)))
    del model
    gc.collect()
    assert gone() is None
    assert twin() is None


@pytest.mark.parametrize("bias", [False, True])
def test_autocast_is_no_less_exact(bias: bool) -> None:
    torch.manual_seed(0)
    model = with_statistics(timm.create_model("preact_resnet18", base_width=8))
    if bias:
        model = with_statistics(timm.create_model("resnet10t"))
    images = torch.rand(8, 3, 32, 32)
    _, exact = _logits_and_gradient(model, images)
    with torch.autocast("cpu", torch.bfloat16), frozen(model):
        twin = twin_of(model, images)
        errors = [
            float((_logits_and_gradient(network, images)[1] - exact).norm() / exact.norm())
            for network in (twin, model)
        ]
        assert errors[0] < 1.3 * errors[1]
        weights = {p.dtype for p in twin.parameters() if p.ndim == 4}
        assert weights == {torch.bfloat16}
    # Back in float32 it is exact again.
    _assert_same(model, frozen_twin(model, images), images)


@pytest.mark.parametrize(
    "kind", ["used twice", "changed in place", "norm twice", "convolution twice"]
)
def test_what_cannot_be_fused_stays_right(kind: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(Awkward(kind))
    images = torch.rand(4, 3, 8, 8)
    _assert_same(model, frozen_twin(model, images), images)


def test_looking_for_a_twin_leaves_the_random_state() -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    before = torch.random.get_rng_state()
    frozen_twin(model, images)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_compiled_network_has_a_compiled_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    # C++ is compiled for minutes; `test_winograd_use` has a network for which that is done.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(model, dynamic=False)
    twin = frozen_twin(compiled, images)
    assert hasattr(twin, "_orig_mod")
    assert _norms(twin) == 0
    for _ in range(2):
        _assert_same(model, twin, images)
        with_statistics(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        assert frozen_twin(compiled, images) is twin


class _NoGradient(nn.Module):
    """What PyTorch 2.11 once made of a twin: the right logits, and no gradient."""

    def __init__(self, network: nn.Module, **_: Any) -> None:
        super().__init__()
        self._orig_mod = network

    def forward(self, images: Tensor) -> Tensor:
        return self._orig_mod(images.detach()) + 0 * images.sum()


def test_a_compiler_that_loses_gradients_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_statistics(timm.create_model("preact_resnet10", base_width=8))
    images = torch.rand(2, 3, 32, 32)
    compiled = torch.compile(model, backend="eager", dynamic=False)
    monkeypatch.setattr(torch, "compile", _NoGradient)
    with pytest.warns(UserWarning, match="changes the gradients"):
        twin = frozen_twin(compiled, images)
    assert not isinstance(twin, _NoGradient)
    _assert_same(model, twin, images)
    assert frozen_twin(compiled, images) is twin
