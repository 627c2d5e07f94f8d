"""What is to be evaluated and how, with everything not given filled in from the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from dynat_ray.attacks.corruptions import get_corruptions
from dynat_ray.attacks.registry import get_attacks, get_distances
from dynat_ray.config import EvalConfig, Norm, ThreatConfig
from dynat_ray.errors import UserError
from dynat_ray.evaluation.subject import Subject
from dynat_ray.radius import parse_number

DEFAULT_NAME = "evaluation.json"


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
        data: Prepared data set whose test split is used.
        norm: `Linf` or `L2`.
        eps: Radii in units of [0, 1] pixels, ascending.
        attacks: Their names.
        samples: Class-balanced number of test images that every attack sees; 0: all.
        costly_samples: Of those, how many costly attacks see; 0: all.
        seed: Of all randomness.
        batch_size: Images per forward pass, and most samples in a shard.
        out: JSON file to write.
        distances: What measures how far the nearest adversarial images are; none: nothing does.
        corruptions: Common corruptions by name, such as `fog-3`.
        eps_ref: What `eps` are multiples of; None: of nothing.
    """

    data: Path
    norm: Norm
    eps: tuple[float, ...]
    attacks: tuple[str, ...]
    samples: int
    costly_samples: int
    seed: int
    batch_size: int
    out: Path
    distances: tuple[str, ...] = ()
    corruptions: tuple[str, ...] = ()
    eps_ref: Reference | None = None


def complete(
    subject: Subject,
    *,
    data: str | None = None,
    norm: Norm | None = None,
    eps: str | None = None,
    attacks: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    out: str | None = None,
    distances: str | None = None,
    corruptions: str | None = None,
) -> Request:
    """Returns the evaluation of `subject`: what is None comes from its run, else from defaults.

    Args:
        subject: The model.
        data: Prepared folder.
        norm: `Linf` or `L2`.
        eps: Radii, comma-separated, such as `8/255` or `0,0.5,1`.
        attacks: Names, comma-separated.
        samples: How many test images, at least 1.
        seed: At least 0.
        batch_size: At least 1.
        out: JSON file.
        distances: Names, comma-separated.
        corruptions: Names, comma-separated, such as `all` or `fog-3,snow`.

    Raises:
        UserError: A value is not allowed; no data are given and there is no run that has; or
            another norm than the run's is given without a radius.
    """
    run = subject.settings
    threat, evaluation = ThreatConfig(), EvalConfig()
    folder = data or run.get("data.path")
    if not folder:
        raise UserError(f"'{subject.name}' comes without a run that names its data; give --data")
    own_norm = run.get("threat.norm", threat.norm)
    if norm not in (None, own_norm) and eps is None:
        usual = "8/255" if norm == "Linf" else "0.5"
        raise UserError(f"--norm {norm} needs a radius of its own: give --eps, such as {usual}")
    radii = (
        tuple(sorted({parse_radius(text) for text in eps.split(",")}))
        if eps is not None
        else (float(run.get("threat.eps", threat.eps)),)
    )
    if out and Path(out).expanduser().is_dir():
        raise UserError(f"--out is {out}, which is a folder; give a file, such as {out}/a.json")
    names = _split(attacks) if attacks is not None else run.get("eval.attacks", evaluation.attacks)
    costly = 0 if samples is not None else int(run.get("eval.samples", evaluation.samples))
    default_out = (subject.run / DEFAULT_NAME) if subject.run else Path(DEFAULT_NAME)
    return Request(
        data=Path(folder).expanduser(),
        norm=norm or own_norm,
        eps=radii,
        attacks=tuple(attack.name for attack in get_attacks(names)),
        samples=_at_least("--samples", 1, samples) if samples is not None else 0,
        costly_samples=costly,
        seed=_at_least("--seed", 0, run.get("train.seed", 0) if seed is None else seed),
        batch_size=_at_least(
            "--batch-size",
            1,
            run.get("eval.batch_size", evaluation.batch_size) if batch_size is None else batch_size,
        ),
        out=Path(out).expanduser() if out else default_out,
        distances=tuple(probe.name for probe in get_distances(_split(distances or ""))),
        corruptions=tuple(probe.name for probe in get_corruptions(_split(corruptions or ""))),
    )


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def parse_radius(text: str) -> float:
    """Returns a radius written as a number or a fraction, such as `0.5` or `8/255`.

    Raises:
        UserError: It is none, or negative.
    """
    try:
        radius = parse_number(text)
    except ValueError:
        radius = -1.0
    if not 0 <= radius < math.inf:
        raise UserError(f"--eps has '{text.strip()}'; it must be 0 or more, such as 8/255 or 0.5")
    return radius


def _at_least(option: str, lowest: int, value: int) -> int:
    if value < lowest:
        raise UserError(f"{option} is {value}; it must be at least {lowest}")
    return value
