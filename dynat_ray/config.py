"""The settings of a run: one dataclass a section, checked when they are made.

A section checks every value against its field's type (`dynat_ray.value_types`) and raises
`UserError` with a sentence that names the key, the value and what is allowed. What concerns several
keys is checked by the class that holds them. `dynat_ray.settings` reads YAML and the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.eval_config import EvalConfig
from dynat_ray.radius import parse_norm_radii, require_possible
from dynat_ray.section import Section
from dynat_ray.value_types import (
    AboveZeroToOne,
    ClosedUnitInterval,
    NonNegative,
    NonNegativeInt,
    OpenUnitInterval,
    Positive,
    PositiveInt,
    Seed,
    ZeroUpToOne,
    require,
)

Norm = Literal["Linf", "L2", "L1"]
CpuKernels = Literal["auto", "off"]
TrackerName = Literal["tensorboard", "mlflow", "wandb"]


@dataclass(kw_only=True)
class ModelConfig(Section, section="model"):
    """The network.

    Attributes:
        name: Any model of timm's registry, ours included; `auto`: that of `init_from`.
        kwargs: Keyword arguments for the architecture, such as `{act_layer: silu}`.
        pretrained: Start from timm's published weights.
        init_from: Weights to start from: a model or run folder, a file of weights, or
            `hf-hub:OWNER/NAME`; empty: none.
        freeze: Parameters that are not trained: `backbone` (all but the classifier), modules such
            as `stem`, or patterns such as `stages.[01].*`. Batch normalisation that is frozen
            keeps its statistics, too.
    """

    name: str = "preact_resnet18"
    kwargs: dict[str, object] = field(default_factory=dict)
    pretrained: bool = False
    init_from: str = ""
    freeze: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class ThreatConfig(Section, section="threat"):
    """What the attacker may do: a ball of radius `eps` around an image in [0, 1].

    Attributes:
        norm: `Linf`, `L2` or `L1`.
        eps: Radius, in units of [0, 1] pixels (for CIFAR-10 8/255 under Linf, 0.5 under L2, 12
            under L1).
        norms: Further norms with their radii, such as `[L2:0.5, L1:12]`, that training attacks
            under besides; validation and tests have `norm`.
        combination: With `norms`, what a training sample's attack is: `random`: under a norm that
            is drawn for it; `max`: under each, and the worst counts; `avg`: under each, and the
            mean of their losses counts.
        eps_growth: Part of the run, in [0, 1], over which training's radius grows from 0 to eps,
            in a straight line from epoch to epoch: large ones can fail from ordinary weights. 0:
            eps from the beginning. Validation and tests always have eps.
    """

    norm: Norm = "Linf"
    eps: NonNegative = 8 / 255
    norms: list[str] = field(default_factory=list)
    combination: Literal["random", "max", "avg"] = "random"
    eps_growth: ClosedUnitInterval = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_possible(self.eps, self.norm, "threat.eps")
        self.further()

    def further(self) -> dict[Norm, float]:
        """Returns the radii of the norms beside `norm`; `UserError` for what is none."""
        allowed = [norm for norm in get_args(Norm) if norm != self.norm]
        return parse_norm_radii(self.norms, allowed, "threat.norms")  # type: ignore[return-value]

    def share_at(self, progress: float) -> float:
        """Returns training's radius as a part of eps.

        Args:
            progress: Part of the run that is over, in [0, 1].
        """
        return min(1.0, progress / self.eps_growth) if self.eps_growth > 0 else 1.0


@dataclass(kw_only=True)
class AttackConfig(Section, section="attack"):
    """The attack that training runs against itself.

    Attributes:
        steps: Gradient steps (PGD-10: 10); 0: no attack.
        step_size: Length of a step in the norm of the threat; 0: `2.5 * eps / steps`, at most eps.
            Samples with a budget of their own step in proportion to it.
        first_steps: Steps at the beginning of the run, when a weak attack teaches as much; they
            grow in a straight line, and what is left of `steps` makes each step longer, at most
            eps. 0: `steps` from the beginning.
        growth: Part of the run, in (0, 1], after which all `steps` are made.
        carry_epochs: Start where the attack on the same image ended in the epoch before, and anew
            after so many epochs, so that fewer `steps` do (ATTA: 10). 0: always anew.
        random_start: `uniform` in the ball, `gaussian` (0.001 times normal noise), `none`, or
            `auto`: what the method's paper does (TRADES: gaussian; PGD: uniform). `true` and
            `false` stand for `auto` and `none`.
        batch_norm: Mode of batch normalisation while attacking; `train` leaves the running
            statistics alone.
        cuda_graphs: On a GPU, capture the attack's passes and replay them: faster, more memory.
    """

    steps: NonNegativeInt = 10
    step_size: NonNegative = 0.0
    first_steps: NonNegativeInt = 0
    growth: AboveZeroToOne = 0.5
    carry_epochs: NonNegativeInt = 0
    random_start: Literal["auto", "uniform", "gaussian", "none"] | bool = "auto"
    batch_norm: Literal["eval", "train"] = "eval"
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.first_steps <= self.steps,
            "attack.first_steps",
            self.first_steps,
            f"from 0 to attack.steps, which is {self.steps}",
        )
        if isinstance(self.random_start, bool):
            self.random_start = "auto" if self.random_start else "none"

    def steps_at(self, progress: float) -> int:
        """Returns how many steps are made.

        Args:
            progress: Part of the run that is over, in [0, 1].
        """
        first = self.first_steps or self.steps
        return round(first + (self.steps - first) * min(1.0, progress / self.growth))


@dataclass(kw_only=True)
class OptimConfig(Section, section="optim"):
    """How the weights move.

    Attributes:
        name: Any optimiser of `timm.optim`; `sgd` has Nesterov momentum, `momentum` has not.
        lr: Peak learning rate for the global batch.
        momentum: Momentum, or beta1.
        weight_decay: Weight decay; biases and normalisation layers go without.
        schedule: `piecewise` (times `decay` at each milestone), `cosine`, `one-cycle`,
            `constant`.
        milestones: Fractions of the run at which `piecewise` drops the rate.
        decay: Factor of a drop.
        warmup_epochs: Epochs (may be a fraction) of linear warm-up; `one-cycle` has its peak there.
        layer_decay: Factor of the rate from each layer to the one before it, as timm groups layers.
        head_lr_ratio: Rate of the classifier, as a multiple of the others'.
    """

    name: str = "sgd"
    lr: Positive = 0.1
    momentum: ZeroUpToOne = 0.9
    weight_decay: NonNegative = 5e-4
    schedule: Literal["piecewise", "cosine", "one-cycle", "constant"] = "piecewise"
    milestones: list[OpenUnitInterval] = field(default_factory=lambda: [0.5, 0.75])
    decay: AboveZeroToOne = 0.1
    warmup_epochs: NonNegative = 0.0
    layer_decay: AboveZeroToOne = 1.0
    head_lr_ratio: Positive = 1.0


@dataclass(kw_only=True)
class TrainConfig(Section, section="train"):
    """The training loop.

    Attributes:
        epochs: Passes over the training set; null where `compute` ends the run.
        compute: Trains until so many units of compute are spent a training image, instead of
            `epochs`: a forward pass is one, a gradient of images one more, of weights two.
        batch_size: Global batch size: the sum over all workers.
        micro_batch_size: Most samples a worker puts through the model at once; a larger share of
            the global batch is accumulated. 0: no bound.
        seed: Seed of everything random.
        precision: `float32`, or `bf16` autocast (float32 where a device lacks it, and to evaluate).
        channels_last: Memory format of images and weights.
        compile: `torch.compile` for the attack and the training graph; slower on a CPU.
        cpu_kernels: The C++ kernels for training on a CPU: `auto`, where they are faster, or `off`.
        activation_checkpointing: Compute activations again on the way back instead of keeping them:
            less memory, for one more forward pass in every backward pass, attacks included.
        ema_decay: Decay a step of the weight average that is evaluated and saved; 0: none.
        awp_gamma: Size of the adversarial weight perturbation (Wu et al. 2020); 0: none.
        awp_warmup_epochs: Epochs before it starts.
        label_smoothing: Mass in [0, 1) spread over all classes in cross-entropies.
        clip_grad_norm: Largest norm of the gradient; 0: no bound.
        checkpoint_epochs: A checkpoint every so many epochs (and at the end).
        checkpoint_minutes: A checkpoint also inside an epoch after so many minutes; 0: never.
        trackers: Who is told of parameters, metrics and results: `tensorboard`, `mlflow`, `wandb`.
    """

    epochs: PositiveInt | None = 30
    compute: Positive | None = None
    batch_size: PositiveInt = 128
    micro_batch_size: NonNegativeInt = 0
    seed: Seed = 0
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    cpu_kernels: CpuKernels = "auto"
    activation_checkpointing: bool = False
    ema_decay: ZeroUpToOne = 0.0
    awp_gamma: NonNegative = 0.0
    awp_warmup_epochs: NonNegativeInt = 0
    label_smoothing: ZeroUpToOne = 0.0
    clip_grad_norm: NonNegative = 0.0
    checkpoint_epochs: PositiveInt = 1
    checkpoint_minutes: NonNegative = 0.0
    trackers: list[TrackerName] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is None and self.compute is None:
            raise UserError("train.epochs has no value; give one, or train.compute")
        if self.epochs is not None and self.compute is not None:
            raise UserError("train.epochs and train.compute are both given; leave out one of them")


@dataclass(kw_only=True)
class MethodSettings(Section, section="method"):
    """How a batch becomes a loss; every method has its own in `dynat_ray.method_settings`.

    Attributes:
        ablation: Settings, as `key=value`, each of which switches off one part of the method.
        standard_model_key: Setting that takes the folder of the `standard` model it needs, if any.
        name: Which method.
    """

    ablation: ClassVar[tuple[str, ...]] = ()
    standard_model_key: ClassVar[str] = ""
    name: str = ""

    def most_steps(self, configured: int) -> int:
        """Returns the most steps that its attacks make where `attack.steps` is `configured`."""
        return configured


@dataclass(kw_only=True)
class RunConfig:
    """A whole run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    threat: ThreatConfig = field(default_factory=ThreatConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    method: MethodSettings
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        require_possible(max(self.eval.eps_curve, default=0.0), self.threat.norm, "eval.eps_curve")
        held_out = self.data.val_fraction > 0
        if self.eval.beside and (self.data.node_share == "part" or not held_out):
            why = "data.node_share is part" if held_out else "data.val_fraction is 0"
            raise UserError(f"eval.beside is true, but {why}: it has no images; change one")
        _, most = self.cluster.worker_range() or (1, 1)
        self.smallest_share(most)

    def smallest_share(self, workers: int) -> int:
        """Returns how many samples of a batch each of `workers` gets; `UserError` if none."""
        if (share := self.train.batch_size // workers) == 0:
            raise UserError(
                f"train.batch_size is {self.train.batch_size}, but there are {workers} workers, "
                "and each needs at least one sample of a batch; raise it or lower cluster.workers"
            )
        return share

    def step_size(self) -> float:
        """Returns the length of a step of the training attack at the full budget."""
        steps, eps = self.attack.steps, self.threat.eps
        if self.attack.step_size > 0 or steps == 0:
            return self.attack.step_size
        return min(2.5 * eps / steps, eps)
