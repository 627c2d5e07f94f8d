"""What a method is: how a batch becomes a loss.

A step has two halves, so that adversarial weight perturbation can ask for the loss twice:
`prepare` attacks the unwrapped network, `loss` runs the outer forward passes through the wrapped
one. Each returns a result; what it was given stays as it is. Nothing else of the training loop
knows how methods differ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynat_ray.acceleration.modes import frozen
from dynat_ray.acceleration.twin import twin_of
from dynat_ray.collectives import world_size
from dynat_ray.config import AttackConfig, MethodSettings, ThreatConfig
from dynat_ray.data import Batch
from dynat_ray.methods.balancing import Balanced
from dynat_ray.models import Classifier
from dynat_ray.perturb.objectives import ObjectiveName
from dynat_ray.perturb.pgd import PGD
from dynat_ray.perturb.running import AttackOutcome, StopRule
from dynat_ray.perturb.several_norms import SeveralNorms
from dynat_ray.perturb.threat import RandomStart, Threat


@dataclass(frozen=True)
class MethodContext:
    """What every method knows of its run.

    Attributes:
        threat: What the model is to withstand.
        attack: The training attack.
        step_size: Length of a step at the full budget, in units of [0, 1] pixels.
        classes: Number of classes.
        label_smoothing: Mass spread over all classes in cross-entropies, in [0, 1).
        training_samples: Size of the training set; larger indices are extra images.
        starts_trained: The model begins with weights that were trained before.
        growth: How much of the threat's radius training has at a point of the run.
        further: Threats of other norms that training attacks under besides.
    """

    threat: Threat
    attack: AttackConfig
    step_size: float
    classes: int
    label_smoothing: float = 0.0
    training_samples: int = 0
    starts_trained: bool = False
    growth: ThreatConfig = field(default_factory=ThreatConfig)
    further: tuple[Threat, ...] = ()

    def at(self, progress: float) -> MethodContext:
        """Returns the context with the radius, and steps in proportion, of a point of the run."""
        share = self.growth.share_at(progress)
        if share == 1:
            return self
        threat = self.threat.at(self.threat.eps * share)
        further = tuple(each.at(each.eps * share) for each in self.further)
        return replace(self, threat=threat, step_size=self.step_size * share, further=further)


@dataclass(frozen=True)
class Prepared:
    """A batch after its attack.

    Attributes:
        batch: The clean images `(B, C, H, W)` and labels.
        adversarial: Attacked images `(B, C, H, W)`, detached; None for clean training.
        weights: Weights of the outer loss `(B,)`, mean 1 over all workers; None: all 1.
        record: Per-sample values `(B,)` for `samples/*.parquet`, by column; one that is not finite
            ends the run.
        extras: Other tensors that `prepare` has made for `loss`, by name, `(B, ...)` each.
    """

    batch: Batch
    adversarial: Tensor | None = None
    weights: Tensor | None = None
    record: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def weighted_mean(self, losses: Tensor) -> Tensor:
        """Returns the mean of `losses` `(B,)` times the weights."""
        return (losses if self.weights is None else losses * self.weights).mean()


@dataclass(frozen=True)
class MethodLoss:
    """What the outer passes of a prepared batch gave.

    Attributes:
        loss: Mean loss of the batch, a scalar that is differentiable in the weights.
        record: Per-sample values `(B,)`, detached, beside those that `prepare` recorded.
    """

    loss: Tensor
    record: Mapping[str, Tensor] = field(default_factory=dict)


SettingsT = TypeVar("SettingsT", bound=MethodSettings)


class Method(ABC, Generic[SettingsT]):
    """Base of all methods.

    Args:
        settings: The method's own section of the config.
        context: What it knows of the run.

    Attributes:
        settings_class: Dataclass of its settings; the default of `name` is the method's name.
        learning_rate_ratio: Its learning rate as a part of the recipe's, for fine-tuning.
        extra_learning_rate_ratio: That of `extra`, as a part of the classifier's.
        differentiates_twice: Its loss holds input gradients, which compiled graphs can't do.
        outer_mode: Mode of the network in the outer passes; `eval`: batch normalisation takes its
            running statistics and dropout is off.
        deals_from: On so many workers `attack` may deal samples out; fewer hardly wait, and learn
            what they always did to the last bit.
        extra: Networks of its own, made by `attach`, that are trained along with the classifier:
            they get the optimiser's other groups, gradients are averaged over workers and their
            state is part of a checkpoint.
        progress: Part of the run, in [0, 1), that was over when the epoch began.
    """

    settings_class: ClassVar[type[MethodSettings]]
    differentiates_twice: ClassVar[bool] = False
    outer_mode: ClassVar[Literal["train", "eval"]] = "train"
    deals_from: ClassVar[int] = 16

    def __init__(self, settings: SettingsT, context: MethodContext) -> None:
        self.settings = settings
        self.context = self._whole = context
        self.extra = nn.ModuleDict()
        self.progress = 0.0
        self.learning_rate_ratio = 1.0
        self.extra_learning_rate_ratio = 1.0
        self._seen: dict[str, Tensor] = {}

    def attach(self, network: Classifier) -> None:
        """Looks at the classifier once, before it is wrapped and its optimiser is made.

        Here a method makes networks of its own (on the classifier's device), freezes parts of the
        classifier, and says what the run lacks.

        Args:
            network: The classifier, not wrapped.

        Raises:
            UserError: The method can't work with this classifier or these settings.
        """

    def start_epoch(self, epoch: int, progress: float) -> None:
        """Is told of every epoch before its first step, on every worker.

        Args:
            epoch: From 0.
            progress: Part of the run that is over, in [0, 1).
        """
        self.progress = progress
        self.context = self._whole.at(progress)

    def score(self, clean: float, robust: float) -> tuple[float, float]:
        """Returns what makes an epoch's model the best, compared in this order.

        Args:
            clean: Accuracy on the validation split, in percent.
            robust: The same under PGD.
        """
        return robust, clean

    @property
    def steps(self) -> int:
        """Most steps of this epoch's attacks."""
        return self.settings.most_steps(self.context.attack.steps_at(self.progress))

    @property
    def step_size(self) -> float:
        """Length of their steps at the full budget: fewer steps are longer, at most eps."""
        full, eps = self.context.step_size, self.context.threat.eps
        fewer = self.context.attack.steps / max(1, self.steps)
        return full if fewer == 1 else max(full, min(full * fewer, eps))

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
    def loss(self, network: nn.Module, prepared: Prepared) -> MethodLoss:
        """Returns the mean loss of a prepared batch, and what it records of the samples.

        Args:
            network: The classifier as it is trained, wrapped for several workers, in the mode
                `outer_mode`.
            prepared: From `prepare`.
        """

    def end_step(self, network: nn.Module) -> None:
        """Is told of every optimiser step after it, on every worker.

        Args:
            network: The unwrapped classifier, with its new weights.
        """

    def state_dict(self) -> dict[str, Any]:
        """Returns what the method remembers between batches, for a checkpoint.

        Every worker calls it, so what only some of them know can be gathered; rank 0 writes it.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""

    def see(self, name: str, values: Tensor) -> None:
        """Notes whether values that a step rests on are finite: if not, the run ends with that.

        `clean_logits`, `attack` and `cross_entropies` do it with logits. Nobody waits for the
        device.

        Args:
            name: Of what, as a sentence about it begins, such as `the clean logits are`.
            values: Any shape.
        """
        finite = values.detach().isfinite().all()
        self._seen[name] = self._seen[name] & finite if name in self._seen else finite

    def take_seen(self) -> dict[str, Tensor]:
        """Returns for each name whether all that was seen since the last call is finite, bool."""
        seen, self._seen = self._seen, {}
        return seen

    def clean_logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Returns logits `(B, K)` of `images` as attacks see them, float32, without gradients.

        That is in eval mode, with batch normalisation in the mode `attack.batch_norm`.
        """
        mode = self.context.attack.batch_norm
        with frozen(network, mode), torch.no_grad():
            seen = twin_of(network, images) if mode == "eval" else network
            logits: Tensor = seen(images).float()
        self.see("the clean logits are", logits)
        return logits

    def attack(
        self,
        network: nn.Module,
        batch: Batch,
        keys: Tensor,
        objective: ObjectiveName,
        *,
        start: RandomStart | None = None,
        ratios: float | Tensor = 1.0,
        stop: StopRule | None = None,
        clean_logits: Tensor | None = None,
        step_noise: float = 0.0,
        balanced: bool = False,
    ) -> AttackOutcome:
        """Runs the configured attack.

        So many arguments, since each is a part of the attack that some method has its own way of.

        Args:
            network: The unwrapped classifier.
            batch: What to attack.
            keys: One key `(B,)` a sample for the noise.
            objective: `ce`, `kl` or `cw`.
            start: The method's own random start, taken where `attack.random_start` is `auto`; None:
                gaussian for `kl`, else uniform.
            ratios: Budgets as multiples of eps, one or `(B,)`. Steps follow. One spares the engine
                to ask the device who has a budget.
            stop: When a sample stops early.
            clean_logits: Needed by `kl`.
            step_noise: Standard deviation of normal noise added at every step.
            balanced: Deal what has a budget evenly over the workers, where there are `deals_from`:
                all must make the call, with `ratios` per sample and `clean_logits`.
        """
        settings = self.context.attack
        configured = settings.random_start
        assert not isinstance(configured, bool)
        own_start = start or ("gaussian" if objective == "kl" else "uniform")
        attack = PGD(
            threat=self.context.threat,
            steps=self.steps,
            step_size=self.step_size,
            objective=objective,
            random_start=own_start if configured == "auto" else configured,
            batch_norm=settings.batch_norm,
            stop=stop,
            step_noise=step_noise,
            cuda_graphs=settings.cuda_graphs,
        )
        run: PGD | SeveralNorms | Balanced
        run = self._under_all(attack) if self.context.further else attack
        if balanced and settings.batch_norm == "eval" and world_size() >= self.deals_from:
            run = Balanced(run)
        outcome = run(
            network,
            batch.images,
            batch.main_labels,
            ratios=ratios,
            clean_logits=clean_logits,
            keys=keys,
            carried=batch.carried,
        )
        self.see("the attack's logits are", outcome.logits)
        return outcome

    def _under_all(self, attack: PGD) -> SeveralNorms:
        """Returns an attack under all norms; steps are the same part of each radius."""
        context = self.context
        step = attack.step_size / context.threat.eps if context.threat.eps > 0 else 0.0
        others = (replace(attack, threat=t, step_size=step * t.eps) for t in context.further)
        combination = context.growth.combination
        assert combination != "avg"  # A step goes through the norms.
        return SeveralNorms((attack, *others), combination)

    def cross_entropies(
        self, logits: Tensor, batch: Batch, smoothing: float | None = None
    ) -> Tensor:
        """Returns smoothed cross-entropies `(B,)`, with CutMix's soft labels where there are.

        Args:
            logits: `(B, K)`.
            batch: The labels.
            smoothing: Label smoothing, in [0, 1); None: the run's.
        """
        self.see("the logits are", logits)
        targets = batch.labels if batch.targets is None else batch.targets
        return F.cross_entropy(
            logits.float(),
            targets,
            reduction="none",
            label_smoothing=self.context.label_smoothing if smoothing is None else smoothing,
        )
