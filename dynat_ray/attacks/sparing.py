"""Saves what the library's APGD computes for samples that it has already fooled.

In `pyautoattack` a fooled sample stays in the batch until the last of 100 iterations, although
its outcome stands. Here it leaves the forward and backward passes. In eval mode samples do not
depend on each other, and the library draws all random numbers before the first iteration, so that
the others fare the same to the last bits of a batched sum.

What a sample becomes that is not fooled is the image on which the model was least sure of it, where
the library gives the clean one: how near the boundary an attack came says whom the next may fool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor

from dynat_ray.perturb.objectives import cw_margin
from dynat_ray.perturb.threat import per_sample

Logits = Callable[[Tensor], Tensor]


def may_spare(model: Logits, images: Tensor) -> bool:
    """Returns whether a model gives the same logits twice.

    One that answers at random is not fooled for good by one wrong answer: its samples stay.
    """
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        return torch.equal(model(images), model(images))


class _AllFooled(Exception):
    """Ends a run of the library that has nothing left to do."""


class _Sparing:
    """A model that computes only samples not fooled yet, and remembers what came nearest to it.

    Attributes:
        fooled: Which samples are, `(B,)`.
        found: The image that fooled a sample, else the one of the smallest margin, `(B, C, H, W)`.
        margins: Of the logits for those images, `(B,)`, more than 0 where it is not fooled.
    """

    def __init__(self, model: Logits, images: Tensor, labels: Tensor) -> None:
        self._model = model
        self._labels = labels
        self._logits: Tensor | None = None
        self.fooled = torch.zeros_like(labels, dtype=torch.bool)
        self.found = images.clone()
        self.margins = torch.full(labels.shape, torch.inf, device=images.device)

    def __call__(self, images: Tensor) -> Tensor:
        left = (~self.fooled).nonzero().squeeze(1)
        logits = self._model(images if len(left) == len(images) else images[left])
        if self._logits is None:
            self._logits = torch.zeros_like(logits)
        answer = logits
        if len(left) < len(images):
            answer = self._logits.index_copy(0, left, logits)
        fooling = logits.argmax(dim=1) != self._labels[left]
        margins = -cw_margin(logits.detach(), self._labels[left], None)
        nearer = fooling | (margins < self.margins[left])
        self.found[left[nearer]] = images.detach()[left[nearer]]
        self.margins[left[nearer]] = margins[nearer]
        newly = left[fooling]
        if len(newly):
            # Constant from now on, so that no gradient leads there.
            self._logits[newly] = answer.detach()[newly]
            self.fooled[newly] = True
            if bool(self.fooled.all()):
                raise _AllFooled
        return answer


class _SparesFooled:
    """Mixed into the library's attacks; each run of theirs is over the samples still right."""

    model: Any
    eps: Any
    own_eps: Tensor | None = None
    """Radii of the samples `(B,)`, if they are not all the one that the attack was made with."""

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        # The library leaves out what is wrong to begin with, and the network's twin may find that
        # of a clean image that the network has right.
        self._left = (self.model(x).argmax(dim=1) == y).nonzero().squeeze(1)
        self._nearest = x.clone()
        self._margins = torch.full(y.shape, torch.inf, device=x.device)
        adversarial: Tensor = super().perturb(x, y)  # type: ignore[misc]
        adversarial[self._left] = self._nearest[self._left]
        return adversarial

    def attack_single_run(
        self, x: Tensor, y: Tensor, x_init: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self.own_eps is not None:
            self.eps = per_sample(self.own_eps[self._left], x)
        model = self.model
        sparing = _Sparing(model, x, y)
        self.model = sparing
        try:
            best, _, loss, adversarial = super().attack_single_run(x, y, x_init)  # type: ignore[misc]
        except _AllFooled:
            best, loss = sparing.found, torch.zeros(len(x), device=x.device)
            adversarial = sparing.found
        finally:
            self.model = model
        adversarial[sparing.fooled] = sparing.found[sparing.fooled]
        self._keep_nearest(sparing)
        return best, ~sparing.fooled, loss, adversarial

    def _keep_nearest(self, run: _Sparing) -> None:
        nearer = run.margins < self._margins[self._left]
        rows = self._left[nearer]
        self._nearest[rows] = run.found[nearer]
        self._margins[rows] = run.margins[nearer]
        self._left = self._left[~run.fooled]


class SparingApgd(_SparesFooled, APGDAttack):  # type: ignore[misc]
    """The library's APGD."""


class SparingTargetedApgd(_SparesFooled, APGDAttack_targeted):  # type: ignore[misc]
    """The library's targeted APGD."""
