"""The fused batch normalisation and ReLU computes what PyTorch's two do, where it is used."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from dynat_ray.acceleration import cpu
from dynat_ray.acceleration.cpu import normalised_relu
from dynat_ray.acceleration.fixed_batch_norm import FixedBatchNorm

# In quotes, so that it is compiled when they run, and not by all who collect tests.
pytestmark = pytest.mark.skipif(
    "normalised_relu._library() is None",
    reason="no C++ compiler, or a processor it is not made for",
)


def _norm(channels: int, **settings: object) -> BatchNormAct2d:
    torch.manual_seed(0)
    norm = BatchNormAct2d(channels, **settings).eval()  # type: ignore[arg-type]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    if norm.weight is not None:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm.requires_grad_(False)


def _features(channels: int, dtype: torch.dtype) -> Tensor:
    features = torch.randn(3, channels, 5, 7).to(dtype)
    return features.contiguous(memory_format=torch.channels_last).requires_grad_(True)


def _own(norm: BatchNormAct2d, fused: bool = False) -> FixedBatchNorm:
    own = FixedBatchNorm(norm, fused=fused, fused_relu=cpu.fused_norm_relu)
    own.refresh(None)
    return own


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)], ids=str
)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("channels", [16, 48])
def test_outputs_and_gradients(
    channels: int, affine: bool, dtype: torch.dtype, tolerance: float
) -> None:
    if normalised_relu._function("normalise", dtype) is None:
        pytest.skip(f"this processor has no instructions for {dtype}")
    norm, features = _norm(channels, affine=affine), _features(channels, dtype)
    upstream = torch.randn_like(features)
    found, expected = _own(norm)(features), norm(features)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == "_NormalisedReluBackward"
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(found, features, upstream)
    (exact,) = torch.autograd.grad(expected, features, upstream)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, exact, rtol=tolerance, atol=tolerance)


def test_a_fused_one_leaves_the_relu() -> None:
    features = _features(32, torch.float32)
    found = _own(_norm(32), fused=True)(features)
    assert found.grad_fn is not None
    assert found.grad_fn.name() == "_NormalisedReluBackward"
    assert torch.equal(found, F.relu(features))
    (gradient,) = torch.autograd.grad(found.sum(), features)
    assert torch.equal(gradient, (features > 0).float())


def test_what_is_no_number_stays_so() -> None:
    features = torch.full((1, 16, 1, 1), torch.nan)
    found = _own(_norm(16))(features.requires_grad_(True))
    assert found.isnan().all()
    (gradient,) = torch.autograd.grad(found, features, torch.full_like(found, torch.nan))
    assert gradient.isnan().all()


def test_it_follows_the_statistics() -> None:
    norm, features = _norm(16), _features(16, torch.float32)
    own = _own(norm)
    norm.running_mean.add_(1.0)
    norm.running_var.mul_(3.0)
    own.refresh(None)
    torch.testing.assert_close(own(features), norm(features))


@pytest.mark.parametrize(
    ("channels", "settings"),
    [(20, {}), (16, {"act_layer": nn.SiLU}), (16, {"apply_act": False})],
)
def test_others_go_the_usual_way(channels: int, settings: dict[str, object]) -> None:
    norm, features = _norm(channels, **settings), _features(channels, torch.float32)
    found = _own(norm)(features)
    assert found.grad_fn is not None
    assert found.grad_fn.name() != "_NormalisedReluBackward"
    torch.testing.assert_close(found, norm(features))


def test_so_do_images_that_are_not_channels_last() -> None:
    norm, features = _norm(16), torch.randn(3, 16, 5, 7)
    assert not normalised_relu.suits(features)
    torch.testing.assert_close(_own(norm)(features), norm(features))
