"""The settings of a run: one dataclass a section, checked when they are made.

Every class checks its own values in `__post_init__` and raises `UserError` with a sentence that
names the key, the value and what is allowed. Reading YAML and the command line is in
`dynat_ray.settings`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from dynat_ray.errors import UserError

Norm = Literal["Linf", "L2"]
CpuKernels = Literal["auto", "off"]


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Raises `UserError` naming `key`, its `value` and what is `allowed`, unless `condition`."""
    if not condition:
        raise UserError(f"{key} is {value!r}; it must be {allowed}")


def _require_finite(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        require(math.isfinite(value), f"{section}.{name}", value, "a finite number")


@dataclass(kw_only=True)
class DataConfig:
    """Which images, and how they reach the model.

    Attributes:
        path: Folder made by `dynat_ray.prepare`; empty: `source`, prepared on first use.
        source: What to prepare when `path` is empty (`digits`, `cifar10`, `folder:PATH`, ...).
        loader: `ffcv`, `memory`, or `auto`: FFCV where it imports.
        val_fraction: Part of the training set, in [0, 0.5], that chooses the best checkpoint.
        limit: Use only a class-balanced part of this many training images; 0: all.
        augment: Any of `crop[-PAD]`, `flip`, `cutout[-SIZE]`, `cutmix[-ALPHA]`,
            `resized-crop`, `randaugment`, applied on the device.
        balance: Draw every class equally often. A sample drawn several times in an epoch is
            augmented the same way each time.
        extra_path: Prepared folder of extra (generated) training images; empty: none.
        extra_fraction: Part of every batch, in [0, 1), that comes from `extra_path`.
        image_size: Side in pixels that large images are brought to; 0: as stored.
        first_image_size: Side in pixels that training begins with; images grow to their own size,
            in four steps. 0: their own from the beginning.
        size_growth: Part of the run, in (0, 1], after which they have it.
        loader_threads: CPU threads that decode, per worker.
    """

    path: str = ""
    source: str = "digits"
    loader: Literal["auto", "ffcv", "memory"] = "auto"
    val_fraction: float = 0.02
    limit: int = 0
    augment: list[str] = field(default_factory=list)
    balance: bool = False
    extra_path: str = ""
    extra_fraction: float = 0.0
    image_size: int = 0
    first_image_size: int = 0
    size_growth: float = 0.5
    loader_threads: int = 1

    def __post_init__(self) -> None:
        require(
            0 <= self.val_fraction <= 0.5, "data.val_fraction", self.val_fraction, "in [0, 0.5]"
        )
        require(self.limit >= 0, "data.limit", self.limit, "0 (all) or a number of images")
        require(
            0 <= self.extra_fraction < 1, "data.extra_fraction", self.extra_fraction, "in [0, 1)"
        )
        require(self.image_size >= 0, "data.image_size", self.image_size, "0 or a side in pixels")
        require(
            self.first_image_size >= 0,
            "data.first_image_size",
            self.first_image_size,
            "0 or a side in pixels",
        )
        require(0 < self.size_growth <= 1, "data.size_growth", self.size_growth, "in (0, 1]")
        require(self.loader_threads >= 1, "data.loader_threads", self.loader_threads, "at least 1")
        if self.extra_fraction > 0 and not self.extra_path:
            raise UserError("data.extra_fraction is set, but data.extra_path names no folder")


@dataclass(kw_only=True)
class ModelConfig:
    """The network.

    Attributes:
        name: Any model of timm's registry, ours included.
        kwargs: Keyword arguments for the architecture, such as `{act_layer: silu}`.
        pretrained: Start from timm's published weights.
        init_from: A `model/` folder (or run folder) whose weights to start from; empty: none.
    """

    name: str = "preact_resnet18"
    kwargs: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    init_from: str = ""


@dataclass(kw_only=True)
class ThreatConfig:
    """What the attacker may do: a ball of radius `eps` around an image in [0, 1].

    Attributes:
        norm: `Linf` or `L2`.
        eps: Radius, in units of [0, 1] pixels (8/255 for CIFAR-10 under Linf, 0.5 under L2).
    """

    norm: Norm = "Linf"
    eps: float = 8 / 255

    def __post_init__(self) -> None:
        _require_finite("threat", self, "eps")
        require(self.eps >= 0, "threat.eps", self.eps, "0 or more, such as 8/255")


@dataclass(kw_only=True)
class AttackConfig:
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
        cuda_graphs: On a GPU, record the attack's passes and replay them: less work for the host,
            for some more memory.
    """

    steps: int = 10
    step_size: float = 0.0
    first_steps: int = 0
    growth: float = 0.5
    carry_epochs: int = 0
    random_start: Literal["auto", "uniform", "gaussian", "none"] | bool = "auto"
    batch_norm: Literal["eval", "train"] = "eval"
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        _require_finite("attack", self, "step_size")
        require(self.steps >= 0, "attack.steps", self.steps, "0 or more")
        require(self.step_size >= 0, "attack.step_size", self.step_size, "0 (from eps) or more")
        require(
            0 <= self.first_steps <= self.steps,
            "attack.first_steps",
            self.first_steps,
            f"from 0 to attack.steps, which is {self.steps}",
        )
        require(0 < self.growth <= 1, "attack.growth", self.growth, "in (0, 1]")
        require(self.carry_epochs >= 0, "attack.carry_epochs", self.carry_epochs, "0 or more")
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
class OptimConfig:
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
        warmup_epochs: Epochs (may be a fraction) of linear warm-up.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["piecewise", "cosine", "one-cycle", "constant"] = "piecewise"
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    decay: float = 0.1
    warmup_epochs: float = 0.0

    def __post_init__(self) -> None:
        _require_finite("optim", self, "lr", "momentum", "weight_decay", "decay", "warmup_epochs")
        require(self.lr > 0, "optim.lr", self.lr, "more than 0")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in [0, 1)")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(0 < self.decay <= 1, "optim.decay", self.decay, "in (0, 1]")
        require(self.warmup_epochs >= 0, "optim.warmup_epochs", self.warmup_epochs, "0 or more")
        for fraction in self.milestones:
            require(0 < fraction < 1, "optim.milestones", fraction, "fractions in (0, 1)")


@dataclass(kw_only=True)
class TrainConfig:
    """The training loop.

    Attributes:
        epochs: Passes over the training set.
        batch_size: Global batch size: the sum over all workers.
        micro_batch_size: Most samples a worker puts through the model at once; a larger share of
            the global batch is accumulated. 0: no bound.
        seed: Seed of everything random.
        precision: `float32`, or `bf16` autocast, which falls back to float32 on a device that has
            no instructions for it (evaluation is float32 always).
        channels_last: Memory format of images and weights.
        compile: `torch.compile` for the attack and the training graph; slower on a CPU.
        cpu_kernels: The C++ kernels for training on a CPU: `auto`, where they are faster, or `off`.
        activation_checkpointing: Compute activations again on the way back instead of keeping them:
            less memory, for one more forward pass in every backward pass, attacks included.
        ema_decay: Decay of the weight average that is evaluated and saved; 0: none.
        awp_gamma: Size of the adversarial weight perturbation (Wu et al. 2020); 0: none.
        awp_warmup_epochs: Epochs before it starts.
        label_smoothing: Mass in [0, 1) spread over all classes in cross-entropies.
        clip_grad_norm: Largest norm of the gradient; 0: no bound.
        checkpoint_epochs: A checkpoint every so many epochs (and at the end).
        checkpoint_minutes: A checkpoint also inside an epoch after so many minutes; 0: never.
    """

    epochs: int = 30
    batch_size: int = 128
    micro_batch_size: int = 0
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    cpu_kernels: CpuKernels = "auto"
    activation_checkpointing: bool = False
    ema_decay: float = 0.0
    awp_gamma: float = 0.0
    awp_warmup_epochs: int = 0
    label_smoothing: float = 0.0
    clip_grad_norm: float = 0.0
    checkpoint_epochs: int = 1
    checkpoint_minutes: float = 0.0

    def __post_init__(self) -> None:
        _require_finite("train", self, "awp_gamma", "clip_grad_norm", "checkpoint_minutes")
        require(self.epochs >= 1, "train.epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "train.batch_size", self.batch_size, "at least 1")
        require(
            self.micro_batch_size >= 0, "train.micro_batch_size", self.micro_batch_size, "0 or more"
        )
        require(0 <= self.seed < 2**63, "train.seed", self.seed, "0 or more, below 2^63")
        require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "in [0, 1)")
        require(self.awp_gamma >= 0, "train.awp_gamma", self.awp_gamma, "0 or more")
        require(
            self.awp_warmup_epochs >= 0,
            "train.awp_warmup_epochs",
            self.awp_warmup_epochs,
            "0 or more",
        )
        require(
            0 <= self.label_smoothing < 1,
            "train.label_smoothing",
            self.label_smoothing,
            "in [0, 1)",
        )
        require(self.clip_grad_norm >= 0, "train.clip_grad_norm", self.clip_grad_norm, "0 or more")
        require(
            self.checkpoint_epochs >= 1,
            "train.checkpoint_epochs",
            self.checkpoint_epochs,
            "at least 1",
        )
        require(
            self.checkpoint_minutes >= 0,
            "train.checkpoint_minutes",
            self.checkpoint_minutes,
            "0 (never) or more",
        )


@dataclass(kw_only=True)
class EvalConfig:
    """What is measured.

    Attributes:
        attacks: Attacks of the final table, on the test split.
        samples: Class-balanced number of test images that AutoAttack sees; 0: all. The cheaper
            attacks see all of them.
        every_epochs: Epochs between two measurements on the validation split.
        steps: PGD steps of that measurement.
        batch_size: Images per forward pass when evaluating.
    """

    attacks: list[str] = field(default_factory=lambda: ["clean", "pgd-20", "autoattack"])
    samples: int = 1000
    every_epochs: int = 1
    steps: int = 10
    batch_size: int = 256

    def __post_init__(self) -> None:
        require(self.samples >= 0, "eval.samples", self.samples, "0 (all) or a number of images")
        require(self.every_epochs >= 1, "eval.every_epochs", self.every_epochs, "at least 1")
        require(self.steps >= 1, "eval.steps", self.steps, "at least 1")
        require(self.batch_size >= 1, "eval.batch_size", self.batch_size, "at least 1")


@dataclass(kw_only=True)
class ClusterConfig:
    """Where it runs.

    Attributes:
        workers: A number, an elastic range such as `1..4`, or `auto`: one per GPU, else two.
        gpu: One GPU per worker; `auto`: where the cluster has any.
        cpus_per_worker: CPU cores of a worker (its loader threads included).
        max_failures: Restarts of the worker group before giving up; -1: without end.
        storage: Where run folders go, instead of `--out`: a shared path or `s3://...`.
    """

    workers: int | str = "auto"
    gpu: bool | Literal["auto"] = "auto"
    cpus_per_worker: int = 1
    max_failures: int = 3
    storage: str = ""

    def __post_init__(self) -> None:
        self.worker_range()
        require(
            self.cpus_per_worker >= 1, "cluster.cpus_per_worker", self.cpus_per_worker, "at least 1"
        )
        require(self.max_failures >= -1, "cluster.max_failures", self.max_failures, "-1, 0 or more")

    def worker_range(self) -> tuple[int, int] | None:
        """Returns the smallest and largest number of workers; None for `auto`."""
        text = str(self.workers)
        if text == "auto":
            return None
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        require(
            1 <= low <= high,
            "cluster.workers",
            self.workers,
            "a number, a range such as 1..4, or auto",
        )
        return low, high


@dataclass(kw_only=True)
class RunConfig:
    """A whole run. `method` is the dataclass of the chosen method (`dynat_ray.methods`)."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    threat: ThreatConfig = field(default_factory=ThreatConfig)
    attack: AttackConfig = field(default_factory=AttackConfig)
    method: Any = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        low_high = self.cluster.worker_range()
        if low_high is not None and self.train.batch_size < low_high[1]:
            raise UserError(
                f"train.batch_size is {self.train.batch_size}, but cluster.workers is "
                f"{self.cluster.workers}; every worker needs at least one sample of a batch"
            )

    def step_size(self) -> float:
        """Returns the length of a step of the training attack at the full budget."""
        steps, eps = self.attack.steps, self.threat.eps
        if self.attack.step_size > 0 or steps == 0:
            return self.attack.step_size
        return min(2.5 * eps / steps, eps)
