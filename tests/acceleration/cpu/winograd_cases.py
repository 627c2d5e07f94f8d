"""Convolutions and precisions that tests of Winograd's algorithm share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.acceleration.cpu.winograd import formats
from dynat_ray.acceleration.cpu.winograd.convolution import WinogradConvolution


def convolution_of(channels: int, kernels: int, **settings: object) -> nn.Conv2d:
    settings = {"kernel_size": 3, "padding": 1, **settings}
    convolution = nn.Conv2d(channels, kernels, **settings)  # type: ignore[arg-type]
    return convolution.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload,no-any-return]


def winograd(convolution: nn.Conv2d, dtype: torch.dtype = torch.float32) -> WinogradConvolution:
    exact = convolution.weight.detach().clone()
    own = WinogradConvolution(convolution.to(dtype))
    own.refresh(exact)
    return own


def relative_error(own: Tensor, exact: Tensor) -> float:
    return float((own - exact).detach().norm() / exact.detach().norm())


# bfloat16 has eight binary digits, float16 eleven, and the transforms add up numbers of both signs:
# what they give may be rounded too, sums besides, or only results.
IN_TRAINING = [
    (torch.float32, torch.float32, 1e-5),
    (torch.bfloat16, torch.bfloat16, 0.02),
    (torch.bfloat16, torch.float32, 0.003),
]
IN_FLOAT16 = (torch.bfloat16, torch.float16, 0.01)


def multiply_in(factors: torch.dtype, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    known = formats.function("convolve", dtype, factors) is not None
    if not known or not formats.multiplies(dtype):
        pytest.skip(f"this processor has no instructions for {dtype}, or better ones")
    monkeypatch.setattr(formats, "in_training", lambda _: factors)
    monkeypatch.setattr(formats, "in_attacks", lambda *_: factors)
