"""Signs that a measured robustness may not be real, each a sentence with its numbers.

After Carlini et al., "On Evaluating Adversarial Robustness" (2019), and the flags of AutoAttack.
A flag does not say that a model is broken, but that its numbers need another, adaptive attack.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.attacks.stages import Setting, Stage
from dynat_ray.evaluation.batches import in_batches
from dynat_ray.perturb.threat import Threat

# Most samples that the checks attack, all of them right without attack.
CHECK_SAMPLES = 64

# Differences this small may be chance or an honest attack's bad luck.
LEAST_SAMPLES = 3
_LEAST_SHARE = 0.04


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Short name.
        flagged: Whether it speaks against the measured robustness.
        sentence: What was found.
        numbers: What the sentence rests on; shares in percent.
    """

    name: str
    flagged: bool
    sentence: str
    numbers: dict[str, float] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """Returns what results files hold."""
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """A model with images that it classifies right, to be attacked by checks.

    Attributes:
        model: As `exact` gives it.
        images: float32 `(n, C, H, W)` in [0, 1] on its device, n at most `CHECK_SAMPLES`.
        labels: int64 `(n,)`.
        at: Threat, classes and seed.
        batch_size: Most images in a pass.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    at: Setting
    batch_size: int

    @classmethod
    def among(
        cls,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: Threat,
        *,
        seed: int,
        batch_size: int,
    ) -> Target:
        """Returns the first of some images that the model classifies right, which may be none."""
        with torch.no_grad():
            logits = in_batches(model, batch_size, images)
        right = (logits.argmax(dim=1) == labels).nonzero().squeeze(1)[:CHECK_SAMPLES]
        at = Setting(threat=threat, classes=logits.shape[1], seed=seed)
        return cls(model, images[right].contiguous(), labels[right], at, batch_size)

    def fooled(
        self, stage: Stage, *, at: Setting | None = None, source: nn.Module | None = None
    ) -> Tensor:
        """Returns which images a stage fools the model with, bool `(n,)`.

        Args:
            stage: The attack.
            at: Another threat; None: its own.
            source: Another model that is attacked instead; None: the model itself.
        """
        attacked = self.model if source is None else source
        setting = at or self.at

        def some_fooled(images: Tensor, labels: Tensor) -> Tensor:
            adversarial = stage.perturb(attacked, images, labels, setting).detach()
            with torch.no_grad():
                logits: Tensor = self.model(adversarial)
            return (logits.argmax(dim=1) != labels) | ~logits.isfinite().all(dim=1)

        return in_batches(some_fooled, self.batch_size, self.images, self.labels)


def notable(count: int, samples: int) -> bool:
    """Returns whether so many of the samples can hardly be chance or an attack's bad luck."""
    return count >= max(LEAST_SAMPLES, _LEAST_SHARE * samples)
