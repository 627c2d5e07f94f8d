"""Square Attack (Andriushchenko et al., ECCV 2020): random search without gradients.

Under Linf it is our own loop, which draws the same random numbers as pyautoattack's and comes to
the same images, but touches only the pixels of a square and not whole images. Under L2 and L1 it
is pyautoattack's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from dynat_ray.attacks.library import logits_of, run_library_attack
from dynat_ray.attacks.stages import Setting
from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.perturb.objectives import cw_margin
from dynat_ray.perturb.threat import Threat, per_sample

_QUERIES = 5000
# Share of the pixels in the first squares, and after which queries it is halved.
_FIRST_SHARE = 0.8
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True)
class Square:
    """Square Attack with the margin loss, one run."""

    name: str = "square"
    queries: int = _QUERIES

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        require_square(images, at.threat.norm)
        if self.mixes(model, images, at):
            eps = images.new_full(labels.shape, at.threat.eps)
            return self.perturb_each(model, images, labels, eps, at)
        return _library_search(logits_of(model), images, labels, at, self.queries)

    def mixes(self, model: nn.Module, images: Tensor, at: Setting) -> bool:
        return at.threat.norm == "Linf"

    def perturb_each(
        self, model: nn.Module, images: Tensor, labels: Tensor, eps: Tensor, at: Setting
    ) -> Tensor:
        require_square(images, at.threat.norm)
        return _linf_search(model, images, labels, eps, at, self.queries)

    def note(self, classes: int) -> str:
        return ""


def require_square(images: Tensor, norm: Norm) -> None:
    """Raises `UserError` if Square Attack can't run on images `(N, C, H, W)` of this size."""
    if not square_fits(images, norm):
        height, width = images.shape[-2:]
        raise UserError(
            f"Square Attack under {norm} can't run on images of {height} x {width} pixels: its "
            "first squares do not fit into them; leave out 'square' and 'autoattack', such as "
            "--attacks clean,apgd-ce,apgd-t,fab-t"
        )


def square_fits(images: Tensor, norm: Norm) -> bool:
    """Returns whether Square Attack can run on images `(N, C, H, W)` of this size."""
    if norm == "Linf":
        return min(images.shape[-2:]) > 1
    # The library starts with tiles, which cross the edge of some images, and then fails.
    image, label = torch.zeros(1, *images.shape[1:]), torch.zeros(1, dtype=torch.long)
    at = Setting(threat=Threat(norm, 1.0), classes=2, seed=0)
    try:
        _library_search(lambda batch: torch.eye(2)[:1].repeat(len(batch), 1), image, label, at, 1)
    except (RuntimeError, ZeroDivisionError):
        return False
    return True


def _library_search(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, at: Setting, queries: int
) -> Tensor:
    attack = SquareAttack(
        logits,
        norm=at.threat.norm,
        n_queries=queries,
        eps=at.threat.eps,
        p_init=_FIRST_SHARE,
        n_restarts=1,
        seed=at.seed,
        resc_schedule=False,
        device=images.device,
    )
    return run_library_attack(attack, images, labels)


@torch.no_grad()
def _linf_search(
    model: nn.Module, images: Tensor, labels: Tensor, eps: Tensor, at: Setting, queries: int
) -> Tensor:
    count, channels, height, width = images.shape
    random = torch.Generator().manual_seed(at.seed)

    def signs(*shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=random) - 1).sign().to(images.device)

    def place(room: int) -> int:
        return int(room * torch.rand(1, generator=random))

    eps = per_sample(eps, images)
    images = images.contiguous(memory_format=torch.channels_last)
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    stripes = images + eps * signs(count, channels, 1, width)
    best = stripes.clamp(0, 1).contiguous(memory_format=torch.channels_last)
    judge = _Judge(model, at.draft, best, labels)
    result = best.clone()
    left = torch.arange(count, device=images.device)
    for query in range(queries):
        searching = judge.margin > 0
        if not bool(searching.all()):
            result[left] = best
            left, low, high = left[searching], low[searching], high[searching]
            best, eps = best[searching], eps[searching]
            judge.keep(searching)
            if len(left) == 0:
                return result
        side = _side(query, height, width)
        top, start = place(height - side), place(width - side)
        square = (..., slice(top, top + side), slice(start, start + side))
        before = best[square].clone()
        moved = before + 2 * eps * signs(channels, 1, 1)
        best[square] = torch.minimum(torch.maximum(moved, low[square]), high[square])
        better = judge.better(best)
        best[square] = torch.where(better.view(-1, 1, 1, 1), best[square], before)
    result[left] = best
    return result


class _Judge:
    """Says which queries bring images nearer to another class.

    Where there is a draft the model is asked only of those that the draft finds nearer, so that no
    step is taken which the model does not take.

    Args:
        model: Is attacked.
        draft: Gives nearly its logits for less, if there is one.
        images: Where the search begins, `(B, C, H, W)`.
        labels: int64 `(B,)`.

    Attributes:
        margin: Of the model's logits for the best images so far, `(B,)`; 0 or less: fooled.
    """

    def __init__(
        self, model: nn.Module, draft: nn.Module | None, images: Tensor, labels: Tensor
    ) -> None:
        self._model, self._draft, self._labels = model, draft, labels
        self.margin = _margin(model, images, labels)
        self._drafted = self.margin if draft is None else _margin(draft, images, labels)

    def keep(self, rows: Tensor) -> None:
        """Leaves out all images but some, bool `(B,)`."""
        self._labels, self.margin = self._labels[rows], self.margin[rows]
        self._drafted = self._drafted[rows]

    def better(self, images: Tensor) -> Tensor:
        """Returns which images `(B, C, H, W)` are better than the best so far, and takes those."""
        if self._draft is None:
            now = _margin(self._model, images, self._labels)
            better = now < self.margin
            self.margin = torch.where(better, now, self.margin)
            return better
        drafted = _margin(self._draft, images, self._labels)
        better = drafted < self._drafted
        asked = better.nonzero().squeeze(1)
        if len(asked):
            now = _margin(self._model, images[asked], self._labels[asked])
            better[asked] = now < self.margin[asked]
            self.margin[asked] = torch.where(better[asked], now, self.margin[asked])
            self._drafted = torch.where(better, drafted, self._drafted)
        return better


def _margin(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return -cw_margin(network(images), labels, None)


def _side(query: int, height: int, width: int) -> int:
    """Returns how many pixels wide the square of a query is."""
    share = _FIRST_SHARE / 2 ** sum(query > halved for halved in _HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)
