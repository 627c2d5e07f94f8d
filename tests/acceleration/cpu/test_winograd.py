"""Winograd's algorithm gives a convolution and its gradient."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dynat_ray.acceleration.cpu import native_code
from dynat_ray.acceleration.cpu.winograd import convolution as decisions
from dynat_ray.acceleration.cpu.winograd import formats
from tests.acceleration.cpu.winograd_cases import (
    IN_FLOAT16,
    IN_TRAINING,
    convolution_of,
    multiply_in,
    relative_error,
    winograd,
)

# In quotes, so that it is compiled when they run, and not by all who collect tests.
pytestmark = pytest.mark.skipif(
    "formats.library() is None", reason="no C++ compiler, or a processor it is not made for"
)


@pytest.mark.parametrize(("dtype", "factors", "tolerance"), [*IN_TRAINING, IN_FLOAT16], ids=str)
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
    """Has an argument for each thing that is varied."""
    multiply_in(factors, dtype, monkeypatch)
    if factors == torch.float16 and (channels % 32 or kernels % 32):
        pytest.skip("panels are longer in float16")
    for decision in ("pays", "strides_pay"):
        monkeypatch.setattr(decisions, decision, lambda *_: True)
    torch.manual_seed(0)
    convolution = convolution_of(channels, kernels, bias=bias, stride=stride)
    exact_convolution = copy.deepcopy(convolution).double()
    own = winograd(convolution, dtype)
    features = torch.randn(samples, channels, height, width).to(dtype).requires_grad_(True)
    exact = exact_convolution(features.double())
    upstream = torch.randn_like(exact).to(dtype)
    (exact_gradient,) = torch.autograd.grad(exact, features, upstream.double())
    found = own(features)
    (gradient,) = torch.autograd.grad(found, features, upstream)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == "_ConvolveBackward"
    assert found.dtype == gradient.dtype == dtype
    assert relative_error(found, exact) < tolerance
    assert relative_error(gradient, exact_gradient) < tolerance


@pytest.mark.parametrize(("dtype", "factors", "tolerance"), [*IN_TRAINING, IN_FLOAT16], ids=str)
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
    multiply_in(factors, dtype, monkeypatch)
    torch.manual_seed(0)
    convolution = convolution_of(channels, 64, bias=bias)
    own = winograd(copy.deepcopy(convolution), dtype)
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
    assert relative_error(gradient, exact) < tolerance


@pytest.mark.parametrize(("dtype", "factors", "tolerance"), IN_TRAINING, ids=str)
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
    """Has an argument for each thing that is varied."""
    multiply_in(factors, dtype, monkeypatch)
    torch.manual_seed(0)
    features = torch.randn(samples, channels, height, width).to(dtype)
    upstream = torch.randn(samples, kernels, height, width).to(dtype)
    weight = torch.zeros(kernels, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    outputs = F.conv2d(features.double(), weight, padding=1)
    (exact,) = torch.autograd.grad(outputs, weight, upstream.double())
    found = torch.ops.dynat_ray.winograd_weight_gradient(features, upstream)
    assert found.dtype == torch.float32
    assert relative_error(found, exact) < tolerance


@pytest.mark.parametrize("of_weights", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("of_features", [1e-20, 1.0, 1e20])
def test_large_and_small_numbers_fit_into_float16(
    of_features: float, of_weights: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, factors, tolerance = IN_FLOAT16
    multiply_in(factors, dtype, monkeypatch)
    torch.manual_seed(0)
    convolution = convolution_of(512, 32, bias=False)
    # Of one sign, so that sums are large; the second image's tiles are far smaller.
    convolution.weight.copy_((1 + torch.rand_like(convolution.weight)) * of_weights)
    features = (1 + torch.rand(2, 512, 8, 8)) * of_features
    features[1] *= 2.0**-24
    exact = copy.deepcopy(convolution).double()(features.to(dtype).double())
    found = winograd(convolution, dtype)(features.to(dtype))
    for image in range(2):
        assert relative_error(found[image].double(), exact[image]) < tolerance


@pytest.mark.parametrize("of_weights", [0.0, 1e-40])
def test_weights_that_have_vanished_give_nothing_in_float16(
    of_weights: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype, factors, _ = IN_FLOAT16
    multiply_in(factors, dtype, monkeypatch)
    convolution = convolution_of(32, 32, bias=False)
    convolution.weight.fill_(of_weights)
    found = winograd(convolution, dtype)(torch.rand(1, 32, 8, 8).to(dtype))
    assert found.abs().max() < 1e-30


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_lost_in_float16(
    number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply_in(torch.float16, torch.bfloat16, monkeypatch)
    own, features = winograd(convolution_of(32, 32), torch.bfloat16), torch.rand(2, 32, 8, 8)
    features[1, 5, 2, 2] = number
    finite = own(features.bfloat16()).isfinite()
    assert finite[0].all()
    assert not finite[1, :, 1:4, 1:4].any()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("samples", [3, 37])
def test_threads_do_not_change_the_result(samples: int, threads: int) -> None:
    torch.manual_seed(0)
    own, features = winograd(convolution_of(64, 64)), torch.randn(samples, 64, 8, 8)
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
    convolution = convolution_of(64, 32)
    features = torch.randn(7, 64, 10, 5)
    exact = copy.deepcopy(convolution).double()(features.double())
    monkeypatch.setenv("CXX", f"{native_code.compiler()} -mno-avx512f")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caches = (native_code.load, formats.library, formats.function)
    try:
        for each in caches:
            each.cache_clear()
        assert not formats.multiplies(torch.bfloat16)
        assert relative_error(winograd(convolution)(features), exact) < 1e-5
        weight = torch.zeros(32, 64, 3, 3, requires_grad=True)
        upstream = torch.randn(7, 32, 10, 5)
        (gradient,) = torch.autograd.grad(F.conv2d(features, weight, padding=1), weight, upstream)
        found = torch.ops.dynat_ray.winograd_weight_gradient(features, upstream)
        assert relative_error(found, gradient) < 1e-5
    finally:
        for each in caches:
            each.cache_clear()
