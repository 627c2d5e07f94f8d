"""Winograd's algorithm gives a convolution and its gradient, where it is used at all."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.perturb import winograd
from dynat_ray.perturb.folding import folded
from dynat_ray.perturb.frozen import frozen
from dynat_ray.perturb.winograd import WinogradConvolution


def _convolution(channels: int, kernels: int, **settings: object) -> nn.Conv2d:
    settings = {"kernel_size": 3, "padding": 1, **settings}
    convolution = nn.Conv2d(channels, kernels, **settings)  # type: ignore[arg-type]
    return convolution.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def _winograd(convolution: nn.Conv2d) -> WinogradConvolution:
    own = WinogradConvolution(convolution)
    own.refresh()
    return own


def _relative_error(own: Tensor, exact: Tensor) -> float:
    return float((own - exact).detach().norm() / exact.detach().norm())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("samples", "channels", "kernels", "height", "width"),
    [(40, 3, 5, 4, 4), (9, 4, 3, 9, 6), (33, 2, 2, 3, 3), (3, 700, 4, 14, 14)],
)
def test_output_and_gradient_are_the_convolutions(
    samples: int, channels: int, kernels: int, height: int, width: int, bias: bool
) -> None:
    torch.manual_seed(0)
    convolution = _convolution(channels, kernels, bias=bias)
    own = _winograd(convolution)
    assert winograd._pays(torch.empty(samples, channels, height, width))
    features = torch.randn(samples, channels, height, width).requires_grad_(True)
    upstream = torch.randn(samples, kernels, height, width)
    exact = convolution.double()(features.double())
    (exact_gradient,) = torch.autograd.grad(exact, features, upstream.double())
    convolution.float()
    found = own(features)
    (gradient,) = torch.autograd.grad(found, features, upstream)
    assert _relative_error(found, exact) < 1e-5
    assert _relative_error(gradient, exact_gradient) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"groups": 2},
        {"padding_mode": "circular"},
        {"kernel_size": 1, "padding": 0},
        {"dtype": torch.float64},
    ],
)
def test_other_convolutions_are_left_alone(settings: dict[str, object]) -> None:
    assert WinogradConvolution.can_take(_convolution(256, 256))
    assert not WinogradConvolution.can_take(_convolution(256, 256, **settings))
    assert not WinogradConvolution.can_take(_convolution(256, 64))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (500, 4, 2, 2)])
def test_few_tiles_or_empty_ones_go_the_direct_way(shape: tuple[int, ...]) -> None:
    convolution = _convolution(4, 4)
    features = torch.randn(shape)
    assert torch.equal(_winograd(convolution)(features), convolution(features))


def _network() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("preact_resnet10", base_width=32, num_classes=7)
    return model.eval().to(memory_format=torch.channels_last)


def _gradient(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    logits = model(images).float()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(dim=1)), images)
    return gradient


def test_attacks_use_it_and_follow_the_weights() -> None:
    model, images = _network(), torch.rand(32, 3, 32, 32)
    for _ in range(2):
        with frozen(model):
            twin = folded(model, images)
            assert _relative_error(_gradient(twin, images), _gradient(model, images)) < 1e-3
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert sum(isinstance(module, WinogradConvolution) for module in twin.modules()) == 1


def test_under_autocast_it_steps_aside() -> None:
    model, images = _network(), torch.rand(32, 3, 32, 32)
    with frozen(model):
        folded(model, images)
        with torch.autocast("cpu", torch.bfloat16):
            twin = folded(model, images)
            own = next(m for m in twin.modules() if isinstance(m, WinogradConvolution))
            assert own.weight.dtype == torch.bfloat16
            assert own(torch.rand(32, 256, 4, 4)).dtype == torch.bfloat16
