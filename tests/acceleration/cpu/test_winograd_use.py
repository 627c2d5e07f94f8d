"""Where Winograd's algorithm is used: in attacks, on convolutions that are faster by it."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.acceleration.cpu.winograd import formats
from dynat_ray.acceleration.cpu.winograd.convolution import WinogradConvolution
from dynat_ray.acceleration.modes import frozen
from dynat_ray.acceleration.twin import twin_of
from tests.acceleration.cpu.winograd_cases import (
    convolution_of,
    multiply_in,
    relative_error,
    winograd,
)

# In quotes, so that it is compiled when they run, and not by all who collect tests.
pytestmark = pytest.mark.skipif(
    "formats.library() is None", reason="no C++ compiler, or a processor it is not made for"
)


def test_without_a_compiler_convolutions_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "library", lambda: None)
    assert not WinogradConvolution.can_take(convolution_of(64, 64))
    with frozen(model := _network()):
        twin = twin_of(model, torch.rand(2, 3, 32, 32))
    assert twin is not model
    assert not any(isinstance(module, WinogradConvolution) for module in twin.modules())


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 3},
        {"stride": (2, 1)},
        {"dilation": 2, "padding": 2},
        {"padding": 0},
        {"groups": 2},
        {"padding_mode": "circular"},
        {"kernel_size": 1, "padding": 0},
        {"dtype": torch.float64},
    ],
)
def test_other_convolutions_are_left_alone(settings: dict[str, object]) -> None:
    assert WinogradConvolution.can_take(convolution_of(64, 64))
    assert not WinogradConvolution.can_take(convolution_of(64, 64, **settings))


@pytest.mark.parametrize(("channels", "kernels"), [(3, 8), (64, 8), (40, 64), (64, 40)])
def test_so_are_those_with_few_channels_or_odd_numbers_of_them(channels: int, kernels: int) -> None:
    assert not WinogradConvolution.can_take(convolution_of(channels, kernels))


def test_no_images_give_no_outputs_and_no_gradients() -> None:
    features = torch.zeros(0, 32, 8, 8).requires_grad_(True)
    found = winograd(convolution_of(32, 48))(features)
    gradient = torch.ops.dynat_ray.winograd_weight_gradient(features, found)
    assert torch.equal(gradient, torch.zeros(48, 32, 3, 3))
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert found.shape == (0, 48, 8, 8)
    assert gradient.shape == features.shape


def test_images_that_fill_no_tile_go_the_direct_way() -> None:
    convolution = convolution_of(32, 32)
    features = torch.randn(500, 32, 2, 2)
    assert torch.equal(winograd(convolution)(features), convolution(features))


@pytest.mark.parametrize(
    ("dtype", "factors", "channels", "expected"),
    [
        (torch.bfloat16, torch.float32, 16, True),
        (torch.bfloat16, torch.bfloat16, 256, False),
        (torch.bfloat16, torch.float16, 32, True),
        (torch.float32, torch.float32, 64, False),
        (torch.float32, torch.float32, 128, True),
    ],
)
def test_with_a_stride_it_is_used_where_it_is_faster(
    dtype: torch.dtype,
    factors: torch.dtype,
    channels: int,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    multiply_in(factors, dtype, monkeypatch)
    own = winograd(convolution_of(channels, 2 * channels, stride=2), dtype)
    outputs = own(torch.randn(2, channels, 8, 8, dtype=dtype, requires_grad=True))
    assert outputs.shape == (2, 2 * channels, 4, 4)
    assert outputs.grad_fn is not None
    assert (outputs.grad_fn.name() == "_ConvolveBackward") == expected


def _network() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("preact_resnet10", base_width=32, num_classes=7)
    return model.eval().to(memory_format=torch.channels_last)


def _small_network() -> nn.Module:
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1)
    layers = [first, nn.ReLU(), second, nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 7))
    return model.eval().to(memory_format=torch.channels_last)


def _gradient(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    logits = model(images).float()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(dim=1)), images)
    return gradient


@pytest.mark.parametrize(("compiled", "count"), [(False, 9), (True, 1)])
def test_attacks_use_it_and_follow_the_weights(compiled: bool, count: int) -> None:
    # Most of the time is the compiler's.
    model, images = _small_network() if compiled else _network(), torch.rand(4, 3, 32, 32)
    network = torch.compile(model) if compiled else model
    for _ in range(2):
        with frozen(model):
            twin = twin_of(network, images)
            assert relative_error(_gradient(twin, images), _gradient(model, images)) < 1e-3
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert sum(isinstance(module, WinogradConvolution) for module in twin.modules()) == count


def test_under_autocast_it_takes_that_precision() -> None:
    model, images = _network(), torch.rand(4, 3, 32, 32)
    with frozen(model):
        expected = _gradient(twin_of(model, images), images)
        with torch.autocast("cpu", torch.bfloat16):
            twin = twin_of(model, images)
            own = next(m for m in twin.modules() if isinstance(m, WinogradConvolution))
            assert own.weight.dtype == torch.bfloat16
            assert own(images).dtype == torch.bfloat16
            found = _gradient(twin, images)
            direct = _gradient(model, images)
    # Both round; neither by much more than the other.
    assert relative_error(found, expected) < 3 * relative_error(direct, expected)
