"""Convolutions of fixed weights that use the algorithm, and where it pays."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.acceleration.cpu.winograd import formats
from dynat_ray.acceleration.cpu.winograd.kernels import size_of_kernels, transform_kernels
from dynat_ray.acceleration.cpu.winograd.operators import OUTPUTS, tiles

_CHANNELS_OF_IMAGES = 4  # at most
_FEWEST_CHANNELS_IN_STRIDES = 128  # in float32; with less, transforms take what products spare


class WinogradConvolution(nn.Module):
    """Takes the place of a convolution whose weights are fixed; `refresh` after they changed.

    It gives gradients with respect to its input, and no second derivatives.

    Args:
        convolution: One that `can_take`; its parameters are shared.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    stride: int
    forwards: Tensor | None
    backwards: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._parameters.update(convolution._parameters)
        self.stride = convolution.stride[0]
        for name in ("forwards", "backwards"):
            self.register_buffer(name, None, persistent=False)

    @staticmethod
    def can_take(module: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Returns whether `module` is a convolution that may be faster this way."""
        return (
            isinstance(module, nn.Conv2d)
            and module.stride in ((1, 1), (2, 2))
            and module.padding == module.dilation == (1, 1)
            and module.padding_mode == "zeros"
            and module.groups == 1
            and suits(module.weight, of_images=_sees_images(module))
        )

    @torch.no_grad()
    def refresh(self, weight: Tensor) -> None:
        """Transforms weights `(K, C, 3, 3)` for the precision that `self.weight` has now.

        Args:
            weight: The same weights before they were rounded.
        """
        dtype = self.weight.dtype
        faster = formats.multiplies(dtype) and (
            self.stride == 1 or strides_pay(dtype, min(weight.shape[:2]))
        )
        if not faster or weight.device.type != "cpu":
            self.forwards = self.backwards = None
            return
        # Of images, few channels are filled up: that pays for their gradient alone.
        images = _sees_images(self)
        if images:
            weight = _filled_up(weight, formats.MULTIPLE_IN_FLOAT16)
            if formats.in_attacks(weight, dtype) != torch.float16:
                weight = weight[:, : formats.MULTIPLE]
        factors = formats.in_attacks(weight, dtype)
        if self.backwards is None or self.backwards.dtype != factors:
            size = size_of_kernels(weight, factors)
            self.backwards = torch.empty(size, dtype=factors)
            self.forwards = None if images else torch.empty(size, dtype=factors)
        transform_kernels(weight, self.backwards, stride=self.stride, turned=True)
        if self.forwards is not None:
            transform_kernels(weight, self.forwards, stride=self.stride)

    def forward(self, features: Tensor) -> Tensor:
        """Convolves `(B, C, H, W)` to `(B, K, H, W)`, channels last."""
        if self.backwards is None or not pays(features, self.stride):
            return F.conv2d(features, self.weight, self.bias, self.stride, padding=1)
        features = features.to(self.weight.dtype)
        result: Tensor
        if self.forwards is None:
            result = _ConvolveImages.apply(features, self.weight, self.backwards, self.bias)
        else:
            result = _Convolve.apply(
                features, self.forwards, self.backwards, self.bias, self.stride
            )
        return result


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        forwards: Tensor,
        backwards: Tensor,
        bias: Tensor | None,
        stride: int,
    ) -> Tensor:
        ctx.save_for_backward(backwards)
        ctx.stride, ctx.size = stride, features.shape[2:]
        result: Tensor = torch.ops.dynat_ray.winograd(features, forwards, bias, stride)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kernels,) = ctx.saved_tensors
        if ctx.stride == 1:
            gradient = torch.ops.dynat_ray.winograd(gradients[0], kernels, None)
        else:
            gradient = torch.ops.dynat_ray.winograd_strided_gradient(
                gradients[0], kernels, *ctx.size
            )
        return gradient, None, None, None, None


class _ConvolveImages(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, backwards: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(backwards)
        ctx.channels = images.shape[1]
        return F.conv2d(images, weight, bias, padding=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kernels,) = ctx.saved_tensors
        filled_up = torch.ops.dynat_ray.winograd(gradients[0], kernels, None)
        return filled_up[:, : ctx.channels], None, None, None


def _sees_images(convolution: nn.Module) -> bool:
    """Returns whether a convolution's inputs are images, of few channels, or like them."""
    weight = convolution.weight
    assert isinstance(weight, Tensor)
    return convolution.stride in (1, (1, 1)) and weight.shape[1] <= _CHANNELS_OF_IMAGES


def _filled_up(weight: Tensor, channels: int) -> Tensor:
    return F.pad(weight, (0, 0, 0, 0, 0, channels - weight.shape[1]))


def suits(weight: Tensor, *, of_images: bool = False) -> bool:
    """Returns whether these kernels `(K, C, 3, 3)` may be faster.

    Args:
        weight: The kernels.
        of_images: Their channels will be filled up.
    """
    filled = weight.shape[:1] if of_images else weight.shape[:2]
    return (
        weight.shape[2:] == (3, 3)
        and all(channels % formats.MULTIPLE == 0 for channels in filled)
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and formats.library() is not None
    )


def pays(features: Tensor, stride: int = 1) -> bool:
    """Returns whether at least half of what the tiles cover is image."""
    height, width = (-(-side // stride) for side in features.shape[2:])
    return 2 * height * width >= tiles(height, width) * OUTPUTS**2


def strides_pay(dtype: torch.dtype, channels: int) -> bool:
    """Returns whether convolutions with a stride of 2 are faster this way."""
    if dtype == torch.float32:
        return channels >= _FEWEST_CHANNELS_IN_STRIDES
    # Where bfloat16 factors are fast, direct ones are too, and nobody has measured which wins.
    return not formats.rounds_factors(dtype)
