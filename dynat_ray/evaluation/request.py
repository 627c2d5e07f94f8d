"""What is to be evaluated and how, with everything not given filled in from the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dynat_ray.attacks.corruptions import get_corruptions
from dynat_ray.attacks.registry import get_attacks, get_distances
from dynat_ray.config import Norm, ThreatConfig
from dynat_ray.errors import UserError
from dynat_ray.eval_config import EvalConfig
from dynat_ray.evaluation.subject import Subject
from dynat_ray.object_store import user_place
from dynat_ray.perturb.threat import Threat
from dynat_ray.radius import parse_number
from dynat_ray.settings import Settings
from dynat_ray.user_path import user_path
from dynat_ray.value_types import NonNegativeInt, PositiveInt, Seed, check_value

DEFAULT_NAME = "evaluation.json"

Split = Literal["test", "train"]
# What the images of a split are called.
IMAGES_OF: dict[Split, str] = {"test": "test images", "train": "training images"}


@dataclass(frozen=True)
class Reference:
    """What `eps_ref` is.

    Attributes:
        model: The model that FGSM leaves half right.
        eps: At this radius.
    """

    model: str
    eps: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """A complete evaluation.

    Attributes:
        data: Folder or address of the data set.
        threats: Of one norm, by ascending radius, at least one.
        attacks: Their names.
        samples: Class-balanced number of images that every attack sees; 0: all.
        costly_samples: Of those, how many costly attacks see; 0: all.
        second_stage: As in `EvaluationPlan`.
        drafts: As in `EvaluationPlan`.
        seed: Of all randomness.
        batch_size: Images per forward pass, and most samples in a shard.
        out: JSON file to write.
        distances: What measures how far the nearest adversarial images are; none: nothing does.
        corruptions: Common corruptions by name, such as `fog-3`.
        eps_ref: What the radii are multiples of; None: of nothing.
        run_eps: The radius that the model was trained for; None: not known.
        corruptions_from: Folder of a published corruption set to measure; None: none.
        among: Places in the split of the only images to look at; None: of all.
        split: Of the data set, whose images are used.
    """

    data: Path | str
    threats: tuple[Threat, ...]
    attacks: tuple[str, ...]
    samples: int
    costly_samples: int
    second_stage: int
    drafts: bool
    seed: int
    batch_size: int
    out: Path
    distances: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()
    eps_ref: Reference | None = None
    run_eps: float | None = None
    corruptions_from: Path | None = None
    among: tuple[int, ...] | None = None
    split: Split = "test"

    @property
    def norm(self) -> Norm:
        """Of every threat."""
        return self.threats[0].norm

    @property
    def eps(self) -> tuple[float, ...]:
        """Radii in units of [0, 1] pixels, ascending."""
        return tuple(threat.eps for threat in self.threats)

    @property
    def shown(self) -> Threat:
        """What pictures and figures by class are of: the model's own radius, else the largest."""
        own = math.nan if self.run_eps is None else self.run_eps
        return next((t for t in self.threats if math.isclose(t.eps, own)), self.threats[-1])


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user asks for; what is None comes from the model's run, else from defaults.

    Attributes:
        data: Prepared folder, or an address.
        norm: `Linf`, `L2` or `L1`.
        eps: Radii, comma-separated, such as `8/255` or `0,0.5,1`.
        attacks: Names, comma-separated.
        split: Whose images.
        samples: How many of them, at least 1.
        second_stage: How many survivors the sampled stages of an attack see; 0: all.
        drafts: False: everything is computed in float32.
        seed: At least 0.
        batch_size: At least 1.
        out: JSON file.
        distances: Names, comma-separated.
        corruptions: Names, comma-separated, such as `all` or `fog-3,snow`.
        corruptions_from: Folder of a corruption set, in place of `corruptions`.
    """

    data: str | None = None
    split: Split = "test"
    norm: Norm | None = None
    eps: str | None = None
    attacks: str | None = None
    samples: int | None = None
    second_stage: int | None = None
    drafts: bool | None = None
    seed: int | None = None
    batch_size: int | None = None
    out: str | None = None
    distances: str | None = None
    corruptions: str | None = None
    corruptions_from: str | None = None


def complete(subject: Subject, options: Options) -> Request:
    """Returns the evaluation of `subject` that a user asks for.

    Raises:
        UserError: A value is not allowed; no data are given and there is no run that has; or
            another norm than the run's is given without a radius.
    """
    run, default = subject.settings, EvalConfig()
    folder = options.data or run.get("data.path")
    if not folder:
        raise UserError(f"'{subject.name}' comes without a run that names its data; give --data")
    attacks = run.get("eval.attacks", default.attacks)
    if options.attacks is not None:
        attacks = _split(options.attacks)
    # A number that is asked for is what every attack sees.
    samples, costly_samples = 0, int(run.get("eval.samples", default.samples))
    if options.samples is not None:
        samples, costly_samples = check_value("--samples", options.samples, PositiveInt), 0
    seed, batch_size, second_stage = options.seed, options.batch_size, options.second_stage
    if seed is None:
        seed = int(run.get("train.seed", 0))
    if batch_size is None:
        batch_size = int(run.get("eval.batch_size", default.batch_size))
    if second_stage is None:
        second_stage = int(run.get("eval.second_stage", default.second_stage))
    drafts = options.drafts
    if drafts is None:
        drafts = bool(run.get("eval.drafts", default.drafts))
    if options.corruptions and options.corruptions_from:
        raise UserError("--corruptions and --corruptions-from exclude each other; give one")
    if options.split != "test" and options.corruptions_from:
        raise UserError("--corruptions-from has images of its own; leave out --split")
    own_eps = run.get("threat.eps") if options.norm in (None, run.get("threat.norm")) else None
    return Request(
        data=user_place(folder),
        split=options.split,
        threats=_threats(run, options),
        attacks=tuple(attack.name for attack in get_attacks(attacks)),
        samples=samples,
        costly_samples=costly_samples,
        second_stage=check_value("--second-stage", second_stage, NonNegativeInt),
        drafts=drafts,
        seed=check_value("--seed", seed, Seed),
        batch_size=check_value("--batch-size", batch_size, PositiveInt),
        out=_out(subject, options),
        distances=tuple(probe.name for probe in get_distances(_split(options.distances or ""))),
        run_eps=None if own_eps is None else float(own_eps),
        corruptions_from=user_path(options.corruptions_from) if options.corruptions_from else None,
        corruptions=tuple(p.name for p in get_corruptions(_split(options.corruptions or ""))),
    )


def _threats(run: Settings, options: Options) -> tuple[Threat, ...]:
    default = ThreatConfig()
    norm: Norm = run.get("threat.norm", default.norm)
    if options.eps is not None:
        radii = sorted({parse_radius(text) for text in options.eps.split(",")})
    elif options.norm in (None, norm):
        radii = [float(run.get("threat.eps", default.eps))]
    else:
        usual = {"Linf": "8/255", "L2": "0.5", "L1": "12"}[options.norm]
        raise UserError(
            f"--norm {options.norm} needs a radius of its own: give --eps, such as {usual}"
        )
    return tuple(Threat(options.norm or norm, radius) for radius in radii)


def _out(subject: Subject, options: Options) -> Path:
    if not options.out:
        return (subject.run or Path()) / DEFAULT_NAME
    out = user_path(options.out)
    if out.is_dir():
        raise UserError(
            f"--out is {options.out}, which is a folder; give a file, such as {options.out}/a.json"
        )
    return out


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def parse_radius(text: str, key: str = "--eps") -> float:
    """Returns a radius written as a number or a fraction, such as `0.5` or `8/255`.

    Args:
        text: What the user wrote.
        key: What the user calls it.

    Raises:
        UserError: It is none, or negative.
    """
    try:
        radius = parse_number(text)
    except ValueError:
        radius = -1.0
    if not 0 <= radius < math.inf:
        raise UserError(f"{key} has '{text.strip()}'; it must be 0 or more, such as 8/255 or 0.5")
    return radius
