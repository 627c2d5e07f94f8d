"""The generative model of `generative_ssl`: a small convolutional autoencoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ScreeningAutoencoder(nn.Module):
    """Encodes images to a quarter of their side and back; a gate can screen the code in between.

    Normalised within each image, so that no sample's reconstruction depends on its batch.

    Args:
        channels: Of the images.
        width: Channels of the first layer; the code has four times as many.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_block(channels, width, stride=1),
            *_block(width, 2 * width, stride=2),
            *_block(2 * width, 4 * width, stride=2),
        )
        self.gate = nn.Conv2d(4 * width, 4 * width, 1)
        # Starts nearly open: at first the screened image is the reconstruction.
        nn.init.constant_(self.gate.bias, 2.0)  # type: ignore[arg-type]
        self.widen = nn.ModuleList(
            [
                nn.Sequential(*_block(4 * width, 2 * width, stride=1)),
                nn.Sequential(*_block(2 * width, width, stride=1)),
            ]
        )
        self.to_pixels = nn.Conv2d(width, channels, 3, padding=1)

    def encode(self, images: Tensor) -> Tensor:
        """Returns codes `(B, 4 width, H / 4, W / 4)` of images in [0, 1]."""
        code: Tensor = self.encoder(images - 0.5)
        return code

    def screen(self, code: Tensor) -> Tensor:
        """Returns how much of each code element passes, in (0, 1)."""
        gate: Tensor = self.gate(code)
        return gate.sigmoid()

    def decode(self, code: Tensor, size: tuple[int, ...]) -> Tensor:
        """Returns images `(B, C, *size)` in [0, 1]."""
        half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        for block, side in zip(self.widen, (half, size), strict=True):
            code = block(F.interpolate(code, size=side))
        pixels: Tensor = self.to_pixels(code)
        return pixels.sigmoid()


def _block(channels: int, width: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(1, width),
        nn.ReLU(),
    ]
