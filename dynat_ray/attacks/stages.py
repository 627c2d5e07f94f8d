"""What an evaluation attack is made of: stages that run one after the other.

A stage sees only the samples that all stages before it left right (Croce and Hein 2020). It is
plain PyTorch, knows nothing of workers, and its outcome follows from its arguments alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

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
        draft: Gives nearly the model's logits for less. A stage may look with it for images of
            which it asks the model itself. None: there is none.
    """

    threat: Threat
    classes: int
    seed: int
    draft: nn.Module | None = None


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


@runtime_checkable
class MixingStage(Stage, Protocol):
    """A stage whose batch may hold samples of several radii."""

    def mixes(self, model: nn.Module, images: Tensor, at: Setting) -> bool:
        """Returns whether it can do so with this model under the norm of `at`."""
        ...

    def perturb_each(
        self, model: nn.Module, images: Tensor, labels: Tensor, eps: Tensor, at: Setting
    ) -> Tensor:
        """As `perturb`, each sample within its own radius.

        Args:
            model: As in `perturb`.
            images: As in `perturb`.
            labels: As in `perturb`.
            eps: float32 `(B,)`, more than 0; instead of that of `at`.
            at: Norm and seed.
        """
        ...


def perturb_each(
    stage: Stage, model: nn.Module, images: Tensor, labels: Tensor, eps: Tensor, at: Setting
) -> Tensor:
    """Returns what a stage makes of samples, each within its own radius.

    A long random search over few images costs nearly what it costs over many, so that samples of
    all radii share a batch where the stage can do it.

    Args:
        stage: Any.
        model: As in `Stage.perturb`.
        images: As in `Stage.perturb`.
        labels: As in `Stage.perturb`.
        eps: float64 `(B,)`, more than 0; instead of that of `at`.
        at: Norm and seed.
    """
    radii = eps.unique().tolist()
    if len(radii) > 1 and isinstance(stage, MixingStage) and stage.mixes(model, images, at):
        return stage.perturb_each(model, images, labels, eps.to(images.dtype), at)
    adversarial = images.clone()
    for radius in radii:
        rows = (eps == radius).nonzero().squeeze(1)
        own = replace(at, threat=at.threat.at(radius))
        adversarial[rows] = stage.perturb(model, images[rows], labels[rows], own)
    return adversarial


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
