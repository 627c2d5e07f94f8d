"""Random shifts and mirrorings, which can be undone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from dynat_ray.keyed_random import uniform


@dataclass(frozen=True)
class Placement:
    """Where each image of a batch lies after `crop` and `flip`.

    Attributes:
        reach: Largest shift in pixels; 0: none.
        top: First row of the window in the image padded by `reach`, int64 `(B,)`.
        left: First column, likewise.
        mirror: Whether it is mirrored horizontally after that, bool `(B,)`; None: none is.
    """

    reach: int
    top: Tensor
    left: Tensor
    mirror: Tensor | None

    @classmethod
    def draw(cls, keys: Tensor, reach: int, *, flip: bool) -> Placement:
        """Returns the placement that belongs to the keys `(B,)`."""
        choices = uniform(keys, 3, stream=1)
        top, left = (choices[:, :2] * (2 * reach + 1)).to(torch.int64).unbind(1)
        return cls(reach, top, left, choices[:, 2] < 0.5 if flip else None)

    def apply(self, pixels: Tensor) -> Tensor:
        """Returns `(B, H, W, C)` shifted and mirrored, 0 where nothing was."""
        return self._mirrored(_window(pixels, self.reach, self.top, self.left))

    def undo(self, pixels: Tensor, before: Tensor) -> Tensor:
        """Returns `(B, H, W, C)` shifted and mirrored back.

        Args:
            pixels: What `apply` has placed, or a change of it.
            before: What stands in the places that `apply` has cut off, `(B, H, W, C)`.
        """
        seen = torch.ones(*pixels.shape[:3], 1, dtype=torch.uint8, device=pixels.device)
        back = [
            _window(values, self.reach, 2 * self.reach - self.top, 2 * self.reach - self.left)
            for values in (self._mirrored(pixels), seen)
        ]
        return torch.where(back[1].bool(), back[0], before)

    def _mirrored(self, pixels: Tensor) -> Tensor:
        if self.mirror is None:
            return pixels
        return torch.where(self.mirror[:, None, None, None], pixels.flip(2), pixels)


def _window(pixels: Tensor, reach: int, top: Tensor, left: Tensor) -> Tensor:
    """Cuts `(B, H, W, C)` out of the same, padded by `reach`."""
    if reach == 0:
        return pixels
    batch, height, width, channels = pixels.shape
    padded = pad(pixels, (0, 0, reach, reach, reach, reach))
    # All horizontal shifts as overlapping views, so that a row is copied in one piece.
    rows = padded.view(batch, height + 2 * reach, (width + 2 * reach) * channels)
    windows = rows.unfold(2, width * channels, channels)
    samples = torch.arange(batch, device=pixels.device)[:, None]
    lines = top[:, None] + torch.arange(height, device=pixels.device)
    return windows[samples, lines, left[:, None]].view(batch, height, width, channels)
