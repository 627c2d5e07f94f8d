"""Bringing batches of images to the size of the network: by their centre or by a random part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resized_crop

from dynat_ray.keyed_random import uniform

_SCALE = (0.08, 1.0)
"""Smallest and largest part of the image's area that a crop takes (Szegedy et al., 2015)."""
_RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width of a crop over its height."""


def fit_square(images: Tensor, side: int) -> Tensor:
    """Resizes the shorter side (bilinear, antialiased) and crops the centre.

    Args:
        images: uint8 `(B, C, H, W)`.
        side: Height and width in pixels; 0: leave the images as they are.

    Returns:
        uint8 `(B, C, side, side)`.
    """
    height, width = images.shape[2:]
    if side == 0 or (height, width) == (side, side):
        return images
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = images[:, :, top : top + short, left : left + short].to(torch.float32)
    resized = interpolate(square, (side, side), mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def crop_randomly(images: Tensor, sizes: Tensor, keys: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts a random part out of each image and resizes it (bilinear, antialiased).

    Area and shape as in torchvision's `RandomResizedCrop`, with sides cut off at the image's
    instead of drawn again. One image after the other: for large ones that costs a CPU a fifteenth
    of what `grid_sample` of the batch does, which takes several points a pixel not to alias.

    Args:
        images: uint8 `(B, C, H, W)`; an image smaller than that lies in the upper left corner.
        sizes: Height and width of each image in pixels, int64 `(B, 2)`, on the CPU.
        keys: What each part is a function of, int64 `(B,)`, on the CPU.
        size: Height and width of the result in pixels.

    Returns:
        uint8 `(B, C, *size)`.
    """
    boxes = _random_boxes(sizes, keys).tolist()
    parts = [
        resized_crop(image, *box, size=list(size), antialias=True)
        for image, box in zip(images, boxes, strict=True)
    ]
    return torch.stack(parts)


def _random_boxes(sizes: Tensor, keys: Tensor) -> Tensor:
    """Returns top, left, height and width in pixels of a part of each image, int64 `(B, 4)`."""
    choices = uniform(keys, 4, stream=4).to(torch.float64)
    area = sizes.prod(dim=1) * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * choices[:, 0])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = (low + (high - low) * choices[:, 1]).exp()
    wanted = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=1)
    sides = torch.minimum(wanted.round().to(torch.int64).clamp(min=1), sizes)
    corner = (choices[:, 2:] * (sizes - sides + 1)).to(torch.int64)
    return torch.cat([corner, sides], dim=1)
