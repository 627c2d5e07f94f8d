"""Winograd's algorithm gives a convolution and its gradient, where it is used at all."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.acceleration.cpu import native_code
from dynat_ray.acceleration.cpu.winograd import WinogradConvolution, formats
from dynat_ray.acceleration.cpu.winograd import convolution as decisions
from dynat_ray.acceleration.modes import frozen
from dynat_ray.acceleration.twin import folded

pytestmark = pytest.mark.skipif(
    formats.library() is None, reason="no C++ compiler, or a processor it is not made for"
)


def _convolution(channels: int, kernels: int, **settings: object) -> nn.Conv2d:
    settings = {"kernel_size": 3, "padding": 1, **settings}
    convolution = nn.Conv2d(channels, kernels, **settings)  # type: ignore[arg-type]
    return convolution.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def _winograd(convolution: nn.Conv2d, dtype: torch.dtype = torch.float32) -> WinogradConvolution:
    exact = convolution.weight.detach().clone()
    own = WinogradConvolution(convolution.to(dtype))
    own.refresh(exact)
    return own


def _relative_error(own: Tensor, exact: Tensor) -> float:
    return float((own - exact).detach().norm() / exact.detach().norm())


# bfloat16 has eight binary digits, float16 eleven, and the transforms add up numbers of both signs:
# what they give may be rounded too, sums besides, or only results.
_IN_TRAINING = [
    (torch.float32, torch.float32, 1e-5),
    (torch.bfloat16, torch.bfloat16, 0.02),
    (torch.bfloat16, torch.float32, 0.003),
]
_IN_FLOAT16 = (torch.bfloat16, torch.float16, 0.01)


def _multiply_in(factors: torch.dtype, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    known = formats.function("convolve", dtype, factors) is not None
    if not known or not formats.multiplies(dtype):
        pytest.skip(f"this processor has no instructions for {dtype}, or better ones")
    monkeypatch.setattr(formats, "in_training", lambda _: factors)
    monkeypatch.setattr(formats, "in_attacks", lambda *_: factors)


@pytest.mark.parametrize(("dtype", "factors", "tolerance"), [*_IN_TRAINING, _IN_FLOAT16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("samples", "channels", "kernels", "height", "width"),
    [
        (1, 32, 48, 4, 4),
        (5, 16, 32, 12, 7),
        (40, 32, 32, 16, 16),
        (9, 64, 32, 9, 6),
        (33, 32, 64, 3, 3),
        (3, 272, 32, 14, 13),
        (2, 48, 512, 5, 8),
        (2, 288, 64, 6, 8),
    ],
)
def test_output_and_gradient_are_the_convolutions(
    samples: int,
    channels: int,
    kernels: int,
    height: int,
    width: int,
    stride: int,
    bias: bool,
    dtype: torch.dtype,
    factors: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _multiply_in(factors, dtype, monkeypatch)
    if factors == torch.float16 and (channels % 32 or kernels % 32):
        pytest.skip("panels are longer in float16")
    for decision in ("pays", "strides_pay"):
        monkeypatch.setattr(decisions, decision, lambda *_: True)
    torch.manual_seed(0)
    convolution = _convolution(channels, kernels, bias=bias, stride=stride)
    exact_convolution = copy.deepcopy(convolution).double()
    own = _winograd(convolution, dtype)
    features = torch.randn(samples, channels, height, width).to(dtype).requires_grad_(True)
    exact = exact_convolution(features.double())
    upstream = torch.randn_like(exact).to(dtype)
    (exact_gradient,) = torch.autograd.grad(exact, features, upstream.double())
    found = own(features)
    (gradient,) = torch.autograd.grad(found, features, upstream)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == "_ConvolveBackward"
    assert found.dtype == gradient.dtype == dtype
    assert _relative_error(found, exact) < tolerance
    assert _relative_error(gradient, exact_gradient) < tolerance


@pytest.mark.parametrize(("dtype", "factors", "tolerance"), [*_IN_TRAINING, _IN_FLOAT16], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_with_respect_to_images_is_the_convolutions(
    channels: int,
    bias: bool,
    dtype: torch.dtype,
    factors: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _multiply_in(factors, dtype, monkeypatch)
    torch.manual_seed(0)
    convolution = _convolution(channels, 64, bias=bias)
    own = _winograd(copy.deepcopy(convolution), dtype)
    images = torch.rand(5, channels, 11, 14).to(dtype).requires_grad_(True)
    outputs = own(images)
    assert outputs.grad_fn is not None
    assert outputs.grad_fn.name() == "_ConvolveImagesBackward"
    assert torch.equal(outputs, convolution.to(dtype)(images))
    upstream = torch.randn_like(outputs)
    (gradient,) = torch.autograd.grad(outputs, images, upstream)
    exact_outputs = convolution.double()(images.double())
    (exact,) = torch.autograd.grad(exact_outputs, images, upstream.double())
    assert gradient.shape == images.shape
    assert _relative_error(gradient, exact) < tolerance


@pytest.mark.parametrize(("dtype", "factors", "tolerance"), _IN_TRAINING, ids=str)
@pytest.mark.parametrize(
    ("samples", "channels", "kernels", "height", "width"),
    [
        (1, 32, 48, 4, 4),
        (40, 32, 16, 16, 16),  # several blocks of tiles, of an even number
        (47, 16, 64, 12, 10),  # and of an odd one
        (33, 64, 32, 3, 3),
        (3, 48, 272, 14, 13),
    ],
)
def test_the_weights_gradient_is_the_convolutions(
    samples: int,
    channels: int,
    kernels: int,
    height: int,
    width: int,
    dtype: torch.dtype,
    factors: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _multiply_in(factors, dtype, monkeypatch)
    torch.manual_seed(0)
    features = torch.randn(samples, channels, height, width).to(dtype)
    upstream = torch.randn(samples, kernels, height, width).to(dtype)
    weight = torch.zeros(kernels, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    outputs = F.conv2d(features.double(), weight, padding=1)
    (exact,) = torch.autograd.grad(outputs, weight, upstream.double())
    found = torch.ops.dynat_ray.winograd_weight_gradient(features, upstream)
    assert found.dtype == torch.float32
    assert _relative_error(found, exact) < tolerance


@pytest.mark.parametrize("of_weights", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("of_features", [1e-20, 1.0, 1e20])
def test_large_and_small_numbers_fit_into_float16(
    of_features: float, of_weights: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, factors, tolerance = _IN_FLOAT16
    _multiply_in(factors, dtype, monkeypatch)
    torch.manual_seed(0)
    convolution = _convolution(512, 32, bias=False)
    # Of one sign, so that sums are large; the second image's tiles are far smaller.
    convolution.weight.copy_((1 + torch.rand_like(convolution.weight)) * of_weights)
    features = (1 + torch.rand(2, 512, 8, 8)) * of_features
    features[1] *= 2.0**-24
    exact = copy.deepcopy(convolution).double()(features.to(dtype).double())
    found = _winograd(convolution, dtype)(features.to(dtype))
    for image in range(2):
        assert _relative_error(found[image].double(), exact[image]) < tolerance


@pytest.mark.parametrize("of_weights", [0.0, 1e-40])
def test_weights_that_have_vanished_give_nothing_in_float16(
    of_weights: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, factors, _ = _IN_FLOAT16
    _multiply_in(factors, dtype, monkeypatch)
    convolution = _convolution(32, 32, bias=False)
    convolution.weight.fill_(of_weights)
    found = _winograd(convolution, dtype)(torch.rand(1, 32, 8, 8).to(dtype))
    assert found.abs().max() < 1e-30


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_lost_in_float16(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _multiply_in(torch.float16, torch.bfloat16, monkeypatch)
    own, features = _winograd(_convolution(32, 32), torch.bfloat16), torch.rand(2, 32, 8, 8)
    features[1, 5, 2, 2] = number
    finite = own(features.bfloat16()).isfinite()
    assert finite[0].all()
    assert not finite[1, :, 1:4, 1:4].any()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("samples", [3, 37])
def test_threads_do_not_change_the_result(samples: int, threads: int) -> None:
    torch.manual_seed(0)
    own, features = _winograd(_convolution(64, 64)), torch.randn(samples, 64, 8, 8)
    upstream = torch.randn_like(features)
    gradient = torch.ops.dynat_ray.winograd_weight_gradient
    expected, before = (own(features), gradient(features, upstream)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(own(features), expected[0])
        assert torch.equal(gradient(features, upstream), expected[1])
    finally:
        torch.set_num_threads(before)


def test_a_processor_with_short_vectors_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    convolution = _convolution(64, 32)
    features = torch.randn(7, 64, 10, 5)
    exact = copy.deepcopy(convolution).double()(features.double())
    monkeypatch.setenv("CXX", f"{native_code.compiler()} -mno-avx512f")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caches = (native_code.load, formats.library, formats.function)
    try:
        for each in caches:
            each.cache_clear()
        assert not formats.multiplies(torch.bfloat16)
        assert _relative_error(_winograd(convolution)(features), exact) < 1e-5
        weight = torch.zeros(32, 64, 3, 3, requires_grad=True)
        upstream = torch.randn(7, 32, 10, 5)
        (gradient,) = torch.autograd.grad(F.conv2d(features, weight, padding=1), weight, upstream)
        found = torch.ops.dynat_ray.winograd_weight_gradient(features, upstream)
        assert _relative_error(found, gradient) < 1e-5
    finally:
        for each in caches:
            each.cache_clear()


def test_without_a_compiler_convolutions_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(formats, "library", lambda: None)
    assert not WinogradConvolution.can_take(_convolution(64, 64))
    with frozen(model := _network()):
        twin = folded(model, torch.rand(2, 3, 32, 32))
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
    assert WinogradConvolution.can_take(_convolution(64, 64))
    assert not WinogradConvolution.can_take(_convolution(64, 64, **settings))


@pytest.mark.parametrize(("channels", "kernels"), [(3, 8), (64, 8), (40, 64), (64, 40)])
def test_so_are_those_with_few_channels_or_odd_numbers_of_them(channels: int, kernels: int) -> None:
    assert not WinogradConvolution.can_take(_convolution(channels, kernels))


def test_no_images_give_no_outputs_and_no_gradients() -> None:
    features = torch.zeros(0, 32, 8, 8).requires_grad_(True)
    found = _winograd(_convolution(32, 48))(features)
    gradient = torch.ops.dynat_ray.winograd_weight_gradient(features, found)
    assert torch.equal(gradient, torch.zeros(48, 32, 3, 3))
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert found.shape == (0, 48, 8, 8)
    assert gradient.shape == features.shape


def test_images_that_fill_no_tile_go_the_direct_way() -> None:
    convolution = _convolution(32, 32)
    features = torch.randn(500, 32, 2, 2)
    assert torch.equal(_winograd(convolution)(features), convolution(features))


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
    _multiply_in(factors, dtype, monkeypatch)
    own = _winograd(_convolution(channels, 2 * channels, stride=2), dtype)
    outputs = own(torch.randn(2, channels, 8, 8, dtype=dtype, requires_grad=True))
    assert outputs.shape == (2, 2 * channels, 4, 4)
    assert outputs.grad_fn is not None
    assert (outputs.grad_fn.name() == "_ConvolveBackward") == expected


def _network() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("preact_resnet10", base_width=32, num_classes=7)
    return model.eval().to(memory_format=torch.channels_last)


def _gradient(model: nn.Module, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_(True)
    logits = model(images).float()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, logits.argmax(dim=1)), images)
    return gradient


@pytest.mark.parametrize("compiled", [False, True])
def test_attacks_use_it_and_follow_the_weights(compiled: bool) -> None:
    model, images = _network(), torch.rand(4, 3, 32, 32)
    network = torch.compile(model) if compiled else model
    for _ in range(2):
        with frozen(model):
            twin = folded(network, images)
            assert _relative_error(_gradient(twin, images), _gradient(model, images)) < 1e-3
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert sum(isinstance(module, WinogradConvolution) for module in twin.modules()) == 9


def test_under_autocast_it_takes_that_precision() -> None:
    model, images = _network(), torch.rand(4, 3, 32, 32)
    with frozen(model):
        expected = _gradient(folded(model, images), images)
        with torch.autocast("cpu", torch.bfloat16):
            twin = folded(model, images)
            own = next(m for m in twin.modules() if isinstance(m, WinogradConvolution))
            assert own.weight.dtype == torch.bfloat16
            assert own(images).dtype == torch.bfloat16
            found = _gradient(twin, images)
            direct = _gradient(model, images)
    # Both round; neither by much more than the other.
    assert _relative_error(found, expected) < 3 * _relative_error(direct, expected)
