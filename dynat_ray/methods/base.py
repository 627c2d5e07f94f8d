"""What a method is: how a batch becomes a loss.

A step has two halves, so that adversarial weight perturbation can ask for the loss twice:
`prepare` attacks the unwrapped network, `loss` runs the outer forward passes through the wrapped
one. Nothing else of the training loop knows how methods differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.config import AttackConfig, ThreatConfig
from dynat_ray.data import Batch
from dynat_ray.perturb.frozen import frozen
from dynat_ray.perturb.objectives import ObjectiveName
from dynat_ray.perturb.pgd import AttackOutcome, StopRule, pgd
from dynat_ray.perturb.threat import RandomStart, get_ball


@dataclass(frozen=True)
class MethodContext:
    """What every method knows of its run.

    Attributes:
        threat: The ball that the model is to withstand.
        attack: The training attack.
        step_size: Length of a step at the full budget, in units of [0, 1] pixels.
        classes: Number of classes.
        label_smoothing: Mass spread over all classes in cross-entropies, in [0, 1).
    """

    threat: ThreatConfig
    attack: AttackConfig
    step_size: float
    classes: int
    label_smoothing: float = 0.0


@dataclass
class Prepared:
    """A batch after its attack.

    Attributes:
        batch: The clean images `(B, C, H, W)` and labels.
        adversarial: Attacked images `(B, C, H, W)`, detached; None for clean training.
        weights: Weights of the outer loss `(B,)`, mean 1 over all workers; None: all 1.
        record: Per-sample values `(B,)` for `samples/*.parquet`, by column.
        passes: Forward-backward passes of the attack, summed over the samples.
    """

    batch: Batch
    adversarial: Tensor | None = None
    weights: Tensor | None = None
    record: dict[str, Tensor] = field(default_factory=dict)
    passes: int = 0

    def weighted_mean(self, losses: Tensor) -> Tensor:
        """Returns the mean of `losses` `(B,)` times the weights."""
        return (losses if self.weights is None else losses * self.weights).mean()


SettingsT = TypeVar("SettingsT")


class Method(ABC, Generic[SettingsT]):
    """Base of all methods.

    Args:
        settings: The method's own section of the config.
        context: What it knows of the run.
    """

    settings_class: ClassVar[type]

    def __init__(self, settings: SettingsT, context: MethodContext) -> None:
        self.settings = settings
        self.context = context
        self.ball = get_ball(context.threat.norm)

    @abstractmethod
    def prepare(self, network: nn.Module, batch: Batch, keys: Tensor) -> Prepared:
        """Attacks a batch.

        Every worker calls this for every batch, since budgets and weights look at all of them.

        Args:
            network: The unwrapped classifier.
            batch: This worker's part of the global batch.
            keys: One key `(B,)` a sample for the attack's noise.
        """

    @abstractmethod
    def loss(self, network: nn.Module, prepared: Prepared) -> Tensor:
        """Returns the mean loss of a prepared batch, differentiable in the weights.

        Args:
            network: The classifier as it is trained, wrapped for several workers.
            prepared: From `prepare`; per-sample losses are added to its record.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what the method remembers between batches, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""

    def clean_logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Returns logits `(B, K)` of `images` in eval mode, float32, without gradients."""
        with frozen(network, self.context.attack.batch_norm), torch.no_grad():
            logits: Tensor = network(images).float()
        return logits

    def attack(
        self,
        network: nn.Module,
        batch: Batch,
        keys: Tensor,
        objective: ObjectiveName,
        *,
        ratios: Tensor | None = None,
        stop: StopRule | None = None,
        clean_logits: Tensor | None = None,
    ) -> AttackOutcome:
        """Runs the configured attack.

        Args:
            network: The unwrapped classifier.
            batch: What to attack.
            keys: One key `(B,)` a sample for the noise.
            objective: `ce`, `kl` or `cw`.
            ratios: Budgets as multiples of eps, `(B,)`; None: 1. Steps follow.
            stop: When a sample stops early.
            clean_logits: Needed by `kl`.
        """
        settings = self.context.attack
        start = settings.random_start
        assert not isinstance(start, bool)
        own_start: RandomStart = "gaussian" if objective == "kl" else "uniform"
        if ratios is None:
            ratios = torch.ones(len(batch.images), device=batch.images.device)
        return pgd(
            network,
            batch.images,
            batch.labels,
            ball=self.ball,
            eps=self.context.threat.eps * ratios,
            step_size=self.context.step_size * ratios,
            steps=settings.steps,
            objective=objective,
            random_start=own_start if start == "auto" else start,
            batch_norm=settings.batch_norm,
            stop=stop,
            clean_logits=clean_logits,
            keys=keys,
        )

    def cross_entropies(self, logits: Tensor, batch: Batch) -> Tensor:
        """Returns smoothed cross-entropies `(B,)`, with CutMix's soft labels where there are."""
        targets = batch.labels if batch.targets is None else batch.targets
        return F.cross_entropy(
            logits.float(),
            targets,
            reduction="none",
            label_smoothing=self.context.label_smoothing,
        )
