"""Whether every pixel of an image reaches the logits of a network.

A network of patches or strides that do not divide a side passes the rest over without a word: a
vision transformer with patches of 16 sees 256 of the 784 pixels of a 28 x 28 image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_TRIES = (1, 4, 8, 16)
"""Images that are tried at once. One reaches most; a maximum passes a single pixel on each time."""
_SEED = 7
_SPREAD = 0.1


def unreached_pixels(model: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Returns which pixels of an image no logit depends on, bool `(H, W)`, by their gradients.

    Random numbers of the process, weights and running statistics stay as they are.

    Args:
        model: Takes images `(B, C, H, W)` in [0, 1]; on the CPU, in evaluation mode.
        channels: Of an image.
        size: Height and width of an image.
    """
    generator = torch.Generator().manual_seed(_SEED)
    missed = torch.ones(size, dtype=torch.bool)
    with torch.enable_grad(), _without_zeros(model, generator):
        for count in _TRIES:
            images = torch.rand(count, channels, *size, generator=generator).requires_grad_()
            logits = model(images)
            weights = torch.randn(logits.shape, generator=generator)
            (gradient,) = torch.autograd.grad((logits * weights).sum(), images)
            missed &= (gradient == 0).all(dim=1).all(dim=0)
            if not missed.any():
                break
    return missed


def reached_size(missed: Tensor) -> tuple[int, int]:
    """Returns height and width of the smallest part, from the upper left, that has all the rest."""
    rows, columns = ((~missed).any(dim=dim).nonzero().flatten() for dim in (1, 0))
    return tuple(int(each.max()) + 1 if len(each) else 0 for each in (rows, columns))  # type: ignore[return-value]


@contextmanager
def _without_zeros(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Gives weights that begin at 0, as last layers and scales of branches do, other ones."""
    before: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and (zero := parameter == 0).any():
                before.append((parameter, parameter.clone()))
                noise = torch.randn(parameter.shape, generator=generator) * _SPREAD
                parameter.add_(noise * zero)
    try:
        yield
    finally:
        with torch.no_grad():
            for changed, value in before:
                changed.copy_(value)
