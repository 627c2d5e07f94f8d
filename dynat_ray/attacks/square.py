"""Square Attack (Andriushchenko et al., ECCV 2020): random search without gradients.

Under Linf it is our own loop, which draws the same random numbers as pyautoattack's and comes to
the same images, but touches only the pixels of a square and not whole images. Under L2 it is
pyautoattack's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from dynat_ray.attacks.library import logits_of, run_library_attack
from dynat_ray.attacks.stages import Setting
from dynat_ray.errors import UserError
from dynat_ray.perturb.objectives import cw_margin

_QUERIES = 5000
# Share of the pixels in the first squares, and after which queries it is halved.
_FIRST_SHARE = 0.8
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SMALLEST_IMAGE = {"Linf": 2, "L2": 5}


@dataclass(frozen=True)
class Square:
    """Square Attack with the margin loss, one run."""

    name: str = "square"
    queries: int = _QUERIES

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        smallest = _SMALLEST_IMAGE[at.norm]
        if min(images.shape[-2:]) < smallest:
            raise UserError(
                f"Square Attack under {at.norm} needs images of at least {smallest} pixels a "
                f"side; these have {images.shape[-2]} x {images.shape[-1]}; leave out 'square' "
                "and 'autoattack'"
            )
        if at.norm == "Linf":
            return _linf_search(model, images, labels, at, self.queries)
        attack = SquareAttack(
            logits_of(model),
            norm=at.norm,
            n_queries=self.queries,
            eps=at.eps,
            p_init=_FIRST_SHARE,
            n_restarts=1,
            seed=at.seed,
            resc_schedule=False,
            device=images.device,
        )
        return run_library_attack(attack, images, labels)

    def note(self, classes: int) -> str:
        return ""


@torch.no_grad()
def _linf_search(
    model: nn.Module, images: Tensor, labels: Tensor, at: Setting, queries: int
) -> Tensor:
    count, channels, height, width = images.shape
    random = torch.Generator().manual_seed(at.seed)

    def signs(*shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=random) - 1).sign().to(images.device)

    def place(room: int) -> int:
        return int(room * torch.rand(1, generator=random))

    images = images.contiguous(memory_format=torch.channels_last)
    low, high = (images - at.eps).clamp(min=0), (images + at.eps).clamp(max=1)
    stripes = images + at.eps * signs(count, channels, 1, width)
    best = stripes.clamp(0, 1).contiguous(memory_format=torch.channels_last)
    margin = -cw_margin(model(best), labels, None)
    result = best.clone()
    left = torch.arange(count, device=images.device)
    for query in range(queries):
        searching = margin > 0
        if not bool(searching.all()):
            result[left] = best
            left, labels, margin = left[searching], labels[searching], margin[searching]
            low, high, best = low[searching], high[searching], best[searching]
            if len(left) == 0:
                return result
        side = _side(query, height, width)
        top, start = place(height - side), place(width - side)
        square = (..., slice(top, top + side), slice(start, start + side))
        before = best[square].clone()
        moved = before + 2 * at.eps * signs(channels, 1, 1)
        best[square] = torch.minimum(torch.maximum(moved, low[square]), high[square])
        now = -cw_margin(model(best), labels, None)
        better = now < margin
        best[square] = torch.where(better.view(-1, 1, 1, 1), best[square], before)
        margin = torch.where(better, now, margin)
    result[left] = best
    return result


def _side(query: int, height: int, width: int) -> int:
    """Returns how many pixels wide the square of a query is."""
    share = _FIRST_SHARE / 2 ** sum(query > halved for halved in _HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)
