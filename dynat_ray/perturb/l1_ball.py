"""The L1 ball within [0, 1]: the geometry of AutoAttack's L1 APGD (Croce and Hein, ICML 2021).

Images have to stay in the ball and in the pixel range at once. Projecting onto one after the other
would leave the attack far inside of both, so that the projection is onto their intersection.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynat_ray import keyed_random

# Part of the pixel values that a step moves: the steepest. APGD begins with a fifth and comes to
# about this; all of them would waste the budget on what hardly counts.
_STEP_SHARE = 0.05


class L1Ball:
    """The absolute changes of all pixel values may add up to at most `eps`."""

    def uniform_noise(self, images: Tensor, eps: Tensor, keys: Tensor) -> Tensor:
        size = images.shape[1:]
        drawn = keyed_random.uniform(keys, size.numel() + 1, stream=0)
        signs = keyed_random.uniform(keys, *size, stream=1) < 0.5
        # Exponential variables, of which one is left out, divided by the sum of all.
        lengths = -(1 - drawn).clamp(min=torch.finfo(drawn.dtype).tiny).log()
        shares = lengths / lengths.sum(dim=1, keepdim=True).clamp(min=1e-12) * eps[:, None]
        noise = shares[:, 1:].reshape(images.shape)
        return torch.where(signs, noise, -noise)

    def step(self, adversarial: Tensor, gradient: Tensor, step_size: Tensor) -> Tensor:
        slope = gradient.nan_to_num(nan=0.0).flatten(1)
        direction, start = slope.sign(), adversarial.flatten(1)
        # A pixel that lies at the end of its range can't go on.
        blocked = torch.where(direction > 0, start >= 1, start <= 0)
        slope = slope.abs().masked_fill(blocked, 0.0)
        count = max(1, round(_STEP_SHARE * slope.shape[1]))
        steepest, places = slope.topk(count, dim=1)
        moved = (steepest > 0).to(start.dtype)
        lengths = step_size[:, None] * moved / moved.sum(dim=1, keepdim=True).clamp(min=1)
        change = lengths * direction.gather(1, places)
        return start.scatter_add(1, places, change).view_as(adversarial)

    def project(self, adversarial: Tensor, images: Tensor, eps: Tensor) -> Tensor:
        """Returns the nearest images in the intersection.

        Of a change `y` it leaves `sign(y) clip(|y| - c, 0, room)`, where `room` is how far a pixel
        may go, with the smallest `c` of 0 or more for which that adds up to at most eps.
        """
        change, clean = (adversarial - images).flatten(1), images.flatten(1)
        size = change.abs()
        room = torch.where(change > 0, 1 - clean, clean)
        cut = _cut(size, room, eps)
        kept = torch.minimum((size - cut[:, None]).clamp(min=0), room)
        # What rounding leaves too much.
        kept = kept * (eps / kept.sum(dim=1).clamp(min=1e-12)).clamp(max=1)[:, None]
        return (images + (change.sign() * kept).view_as(images)).clamp(0, 1)


def _cut(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Returns the smallest `c >= 0`, `(B,)`, for which `sum_i clip(size_i - c, 0, room_i) <= eps`.

    The sum falls with c, piecewise linearly: a term begins to fall at `size - room` and ends at
    `size`.
    """
    begins, ends = (size - room).clamp(min=0), size
    bends, order = torch.cat([begins, ends], dim=1).sort(dim=1)
    falling = torch.where(order < size.shape[1], 1.0, -1.0).to(size).cumsum(dim=1)
    lengths = bends.diff(dim=1, append=bends[:, -1:])
    # Behind every bend.
    left = torch.minimum(size, room).sum(dim=1, keepdim=True) - (falling * lengths).cumsum(dim=1)
    place = (left > eps[:, None]).sum(dim=1, keepdim=True)
    last = place.clamp(max=bends.shape[1] - 1)
    slope = falling.gather(1, last).clamp(min=1)
    over = left.gather(1, last) + slope * lengths.gather(1, last) - eps[:, None]
    cut = bends.gather(1, last) + over.clamp(min=0) / slope
    whole = torch.minimum(size, room).sum(dim=1) <= eps
    return torch.where(whole, 0.0, cut.squeeze(1))
