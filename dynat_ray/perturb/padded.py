"""Convolutions of images on a GPU, with their few channels filled up.

The matrix units of a GPU take channels by eights. For an image's three cuDNN falls back to
arithmetic without them, and changes the layout of everything before and after.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MULTIPLE = 8


class PaddedConvolution(nn.Module):
    """Takes the place of a convolution whose weights are fixed; `refresh` after they changed.

    Args:
        convolution: One that `can_take`; its parameters are shared.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    padded: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._parameters.update(convolution._parameters)
        self._missing = _MULTIPLE - convolution.in_channels
        self._settings: dict[str, Any] = {
            name: getattr(convolution, name) for name in ("stride", "padding", "dilation")
        }
        self.register_buffer("padded", None, persistent=False)

    @staticmethod
    def can_take(module: nn.Module) -> bool:
        """Returns whether `module` is a convolution that may be faster this way."""
        return (
            isinstance(module, nn.Conv2d)
            and module.in_channels < _MULTIPLE
            and module.groups == 1
            and module.padding_mode == "zeros"
            and module.weight.device.type == "cuda"
        )

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Takes over weights `(K, C, H, W)`, if `self.weight` is bfloat16 now.

        Args:
            weight: The same weights before they were rounded.
        """
        if self.weight.dtype != torch.bfloat16:
            self.padded = None
            return
        padded = self._fill_up(weight).to(self.weight.dtype)
        padded = padded.contiguous(memory_format=torch.channels_last)
        if self.padded is None or self.padded.device != padded.device:
            self.padded = padded
        else:
            self.padded.copy_(padded)  # in place: compiled graphs keep their inputs

    def forward(self, features: Tensor) -> Tensor:
        """Convolves `(B, C, H, W)`."""
        if self.padded is None:
            return F.conv2d(features, self.weight, self.bias, **self._settings)
        features = self._fill_up(features.to(self.padded.dtype))
        return F.conv2d(features, self.padded, self.bias, **self._settings)

    def _fill_up(self, tensor: Tensor) -> Tensor:
        """Appends channels of zeros to `(_, C, H, W)`."""
        return F.pad(tensor, (0, 0, 0, 0, 0, self._missing))
