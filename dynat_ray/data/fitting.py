"""Bringing batches of images to the size of the network: by their centre or by a random part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from dynat_ray.keyed_random import uniform

_SCALE = (0.08, 1.0)
"""Smallest and largest part of the image's area that a crop takes (Szegedy et al., 2015)."""
_RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width of a crop over its height."""
_TOGETHER = 64
"""Images resized at once: as float32, those of 500 pixels a side take 3 MB each."""


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
    """Cuts a random part out of each image and resizes it.

    Area and shape as in torchvision's `RandomResizedCrop`, with sides cut off at the image's
    instead of drawn again.

    Args:
        images: uint8 `(B, C, H, W)`; an image smaller than that lies in the upper left corner.
        sizes: Height and width of each image in pixels, int64 `(B, 2)`.
        keys: What each part is a function of, int64 `(B,)`.
        size: Height and width of the result in pixels.

    Returns:
        uint8 `(B, C, *size)`.
    """
    top, left, height, width = _random_boxes(sizes, keys)
    # Means of n x n points a pixel, so that no pixel of a large image falls between two points. A
    # function of the shape alone: what a batch holds beside an image must not matter to it.
    points = max(
        1, round(max(whole / side for whole, side in zip(images.shape[2:], size, strict=True)))
    )
    rows = _points(top, height, sizes[:, 0], size[0] * points, images.shape[2])
    columns = _points(left, width, sizes[:, 1], size[1] * points, images.shape[3])
    splits = (each.split(_TOGETHER) for each in (images, rows, columns))
    parts = [
        _means(some, at_rows, at_columns, points)
        for some, at_rows, at_columns in zip(*splits, strict=True)
    ]
    return torch.cat(parts)


def _means(images: Tensor, rows: Tensor, columns: Tensor, points: int) -> Tensor:
    """Returns the means of `points` x `points` neighbours on a grid, uint8.

    Args:
        images: uint8 `(B, C, H, W)`.
        rows: Where the grid's rows lie, `(B, h)`, from -1 to 1.
        columns: Where its columns lie, `(B, w)`, likewise.
        points: Divides h and w.
    """
    shape = (len(images), rows.shape[1], columns.shape[1])
    grid = torch.stack([columns[:, None].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    values = grid_sample(images.to(torch.float32), grid, align_corners=False)
    return avg_pool2d(values, points).round_().clamp_(0, 255).to(torch.uint8)


def _random_boxes(sizes: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns top, left, height and width of a part of each image in pixels, float32 `(B,)`."""
    choices = uniform(keys, 4, stream=4)
    height, width = sizes.to(torch.float32).unbind(1)
    area = height * width * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * choices[:, 0])
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    ratio = (low + (high - low) * choices[:, 1]).exp()
    part_width = torch.minimum((area * ratio).sqrt(), width)
    part_height = torch.minimum((area / ratio).sqrt(), height)
    left = choices[:, 2] * (width - part_width)
    top = choices[:, 3] * (height - part_height)
    return top, left, part_height, part_width


def _points(start: Tensor, extent: Tensor, length: Tensor, count: int, whole: int) -> Tensor:
    """Returns where `count` evenly spaced points of a part lie along one axis.

    Args:
        start: Where each part starts in pixels, float32 `(B,)`.
        extent: How long it is.
        length: How long its image is; no point takes anything from beyond, int64 `(B,)`.
        count: Number of points.
        whole: Length of the tensor that holds the image.

    Returns:
        float32 `(B, count)` from -1 to 1, as `grid_sample` takes them.
    """
    steps = (torch.arange(count, device=start.device) + 0.5) / count
    places = start[:, None] + extent[:, None] * steps
    inside = torch.minimum(places.clamp_(min=0.5), length[:, None] - 0.5)
    return inside * (2 / whole) - 1
