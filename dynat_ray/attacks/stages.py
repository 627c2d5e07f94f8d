"""What an evaluation attack is made of: stages that run one after the other.

A stage sees only the samples that all stages before it left right (Croce and Hein 2020). It is
plain PyTorch, knows nothing of workers, and its outcome follows from its arguments alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from dynat_ray.perturb.threat import Threat

_MOST_TARGETS = 9


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a stage needs beside the samples.

    Attributes:
        threat: Norm and radius, more than 0 (a probe, which knows no radius, has 0).
        classes: Number of logits of the model, at least 2.
        seed: All randomness of the stage follows from it.
    """

    threat: Threat
    classes: int
    seed: int


class Stage(Protocol):
    """One attack of a sequence."""

    @property
    def name(self) -> str:
        """Name as in the literature, such as `apgd-ce`."""
        ...

    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, at: Setting) -> Tensor:
        """Returns images `(B, C, H, W)` within `at.threat` of `images` and in [0, 1].

        Args:
            model: In eval mode, with frozen parameters, in float32.
            images: float32 `(B, C, H, W)` in [0, 1] on the model's device, contiguous, all of
                them classified right.
            labels: int64 `(B,)`.
            at: Threat and seed.
        """
        ...

    def note(self, classes: int) -> str:
        """Returns what is done otherwise than in the literature with so few classes, or ``""``."""
        ...


def target_count(classes: int) -> int:
    """Returns how many wrong classes targeted attacks try: all, but at most nine."""
    return min(_MOST_TARGETS, classes - 1)


def likely_wrong_class(logits: Tensor, rank: int) -> Tensor:
    """Returns int64 classes `(B,)`: the wrong one of that rank, 0 being the most likely.

    Args:
        logits: Of images that are classified right, `(B, K)`.
        rank: In [0, K - 2].
    """
    return logits.sort(dim=1).indices[:, -2 - rank]
