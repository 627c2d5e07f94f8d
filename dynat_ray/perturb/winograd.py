"""Convolutions of 3 x 3 by Winograd's algorithm, for attacks on a CPU in float32.

Four by four outputs at once take 36 products for each pair of channels instead of 144 (Winograd;
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). What that spares
has to pay for the transforms around it, so it is for many channels: 1.5 to 2 times as fast as
oneDNN's direct convolution from 256 on, hardly faster at 128, slower below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTPUTS = 4
_INPUTS = 6
_FEWEST_CHANNELS = 160
# With fewer tiles reading the kernels, four times as large as before, costs more than is spared.
_FEWEST_TILES = 32
# Tiles times channels that are transformed at once, so that they stay in the cache.
_AT_ONCE = 2**15

# The transforms of an image's tile, a kernel and a tile's products, for points 0, 1, -1, 2, -2.
_IMAGE = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_PRODUCTS = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)


class WinogradConvolution(nn.Module):
    """Takes the place of a convolution whose weights are fixed; `refresh` after they changed.

    It gives gradients with respect to its input, and no second derivatives.

    Args:
        convolution: One that `can_take`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._parameters.update(convolution._parameters)
        self._kernels: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def can_take(module: nn.Module) -> bool:
        """Returns whether `module` is a convolution that is faster this way."""
        return (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (3, 3)
            and module.stride == module.dilation == (1, 1)
            and module.padding == (1, 1)
            and module.padding_mode == "zeros"
            and module.groups == 1
            and min(module.in_channels, module.out_channels) >= _FEWEST_CHANNELS
            and _in_float32_on_cpu(module.weight)
        )

    def refresh(self) -> None:
        """Transforms the weights as they are now; under autocast there is nothing to do."""
        self._kernels = None
        if _in_float32_on_cpu(self.weight):
            # The gradient is a convolution too: with channels exchanged and kernels turned round.
            turned = self.weight.transpose(0, 1).flip(2, 3)
            self._kernels = _transformed(self.weight), _transformed(turned)

    def forward(self, features: Tensor) -> Tensor:
        """Convolves `(B, C, H, W)` to `(B, K, H, W)`, channels last."""
        if self._kernels is None or not _pays(features):
            return F.conv2d(features, self.weight, self.bias, padding=1)
        result: Tensor = _Convolve.apply(features, self.bias, *self._kernels)
        return result


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, bias: Tensor | None, forwards: Tensor, backwards: Tensor
    ) -> Tensor:
        ctx.save_for_backward(backwards)
        result = _convolved(features, forwards)
        return result if bias is None else result.add_(bias.view(-1, 1, 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _convolved(gradients[0], *ctx.saved_tensors), None, None, None


def _in_float32_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _pays(features: Tensor) -> bool:
    samples, _, height, width = features.shape
    tiles = _tiles(height) * _tiles(width)
    half_of_them_filled = 2 * height * width >= tiles * _OUTPUTS**2
    return samples * tiles >= _FEWEST_TILES and half_of_them_filled


def _tiles(side: int) -> int:
    return -(-side // _OUTPUTS)


def _convolved(features: Tensor, weights: Tensor) -> Tensor:
    """Convolves `(B, C, H, W)` by transformed weights `(36, C, K)`."""
    samples, channels, height, width = features.shape
    down, across, kernels = _tiles(height), _tiles(width), weights.shape[2]
    padded = F.pad(
        features.permute(0, 2, 3, 1),
        (0, 0, 1, _OUTPUTS * across + 1 - width, 1, _OUTPUTS * down + 1 - height),
    )
    # Tiles of six by six overlap by two: (6, 6, B, tiles down, tiles across, C).
    tiles = (
        padded.unfold(1, _INPUTS, _OUTPUTS).unfold(2, _INPUTS, _OUTPUTS).permute(4, 5, 0, 1, 2, 3)
    )
    into, back = _both_ways(_IMAGE), _both_ways(_PRODUCTS)
    result = torch.empty(
        (samples, kernels, _OUTPUTS * down, _OUTPUTS * across), memory_format=torch.channels_last
    )
    targets = result.permute(0, 2, 3, 1).view(samples, down, _OUTPUTS, across, _OUTPUTS, kernels)
    at_once = max(1, max(2 * _FEWEST_TILES, _AT_ONCE // channels) // (down * across))
    for part, target in zip(tiles.split(at_once, dim=2), targets.split(at_once), strict=True):
        images = (into @ part.reshape(_INPUTS**2, -1)).view(_INPUTS**2, -1, channels)
        outputs = back @ torch.bmm(images, weights).view(_INPUTS**2, -1)
        target.copy_(
            outputs.view(_OUTPUTS, _OUTPUTS, -1, down, across, kernels).permute(2, 3, 0, 4, 1, 5)
        )
    if result.shape[2:] == features.shape[2:]:
        return result
    return result[:, :, :height, :width].clone(memory_format=torch.channels_last)


def _transformed(weight: Tensor) -> Tensor:
    """Transforms kernels `(K, C, 3, 3)` to `(36, C, K)`."""
    kernels, channels = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_both_ways(_KERNEL) @ flat).view(_INPUTS**2, channels, kernels)


def _both_ways(transform: tuple[tuple[float, ...], ...]) -> Tensor:
    """Returns the matrix that transforms rows and columns of a flattened tile."""
    one_way = torch.tensor(transform, dtype=torch.float64)
    return torch.kron(one_way, one_way).float()
