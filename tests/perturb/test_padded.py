"""Convolutions of few channels that are filled up give what they gave, and their gradient."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import dynat_ray  # noqa: F401  registers the networks
from dynat_ray.perturb.folding import folded
from dynat_ray.perturb.frozen import frozen
from dynat_ray.perturb.padded import PaddedConvolution


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        nn.Conv2d(1, 20, 5, stride=2, dilation=2),
        nn.Conv2d(3, 16, 3, padding="same"),
    ],
)
def test_it_is_the_convolution(convolution: nn.Conv2d) -> None:
    weight = convolution.weight.detach().clone()
    convolution = convolution.requires_grad_(False).bfloat16()
    images = torch.rand(4, convolution.in_channels, 16, 16).bfloat16().requires_grad_(True)
    own = PaddedConvolution(convolution)
    own.refresh(weight)
    assert own.padded is not None and own.padded.shape[1] == 8
    found, expected = own(images), convolution(images)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, images, direction),
        torch.autograd.grad(expected, images, direction),
    )


def test_new_weights_lie_where_the_old_ones_did() -> None:
    own = PaddedConvolution(nn.Conv2d(3, 16, 3).bfloat16())
    own.refresh(torch.randn(16, 3, 3, 3))
    before, weight = own.padded, torch.randn(16, 3, 3, 3)
    own.refresh(weight)
    assert own.padded is before is not None
    torch.testing.assert_close(own.padded[:, :3], weight.bfloat16())


def test_in_float32_nothing_is_filled_up() -> None:
    convolution = nn.Conv2d(3, 16, 3)
    own, images = PaddedConvolution(convolution), torch.rand(2, 3, 8, 8)
    own.refresh(convolution.weight)
    assert own.padded is None
    assert torch.equal(own(images), convolution(images))


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 8, 3),
    ],
)
def test_others_stay_as_they_are(convolution: nn.Conv2d) -> None:
    """The last one would do, but not on a CPU."""
    assert not PaddedConvolution.can_take(convolution)


def test_a_network_keeps_its_logits_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        PaddedConvolution, "can_take", lambda module: getattr(module, "in_channels", 9) < 8
    )
    torch.manual_seed(0)
    model = timm.create_model("preact_resnet10", base_width=16, num_classes=5).eval()
    images = torch.rand(4, 3, 16, 16)
    with frozen(model), torch.autocast("cpu", torch.bfloat16):
        twin = folded(model, images)
        assert isinstance(twin.stem.conv, PaddedConvolution)
        assert twin.stem.conv.padded is not None
        logits, gradients = [], []
        for network in (model, twin):
            own = images.clone().requires_grad_(True)
            logits.append(network(own).float())
            gradients += torch.autograd.grad(logits[-1].square().sum(), own)
    torch.testing.assert_close(logits[0], logits[1], rtol=0.1, atol=0.05)
    assert F.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0) > 0.98


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_fills_up_the_first_convolution() -> None:
    model = timm.create_model("preact_resnet10", base_width=16).cuda().eval()
    with frozen(model), torch.autocast("cuda", torch.bfloat16):
        twin = folded(model, torch.rand(4, 3, 16, 16, device="cuda"))
    padded = [m for m in twin.modules() if isinstance(m, PaddedConvolution)]
    assert len(padded) == 1 and padded[0].padded is not None
