"""Bringing batches of images to a square size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


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
