"""Search spaces: a YAML file of settings, each with a distribution or a fixed value."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.settings import Settings, flatten, override, read_settings
from dynat_ray.value_types import Finite, check_value

Distribution = FloatDistribution | IntDistribution | CategoricalDistribution

_KINDS = ("uniform", "loguniform", "int", "logint", "choice")
# Values of a range that a grid search tries, unless the space says otherwise.
_GRID_POINTS = 3
# Trials that differ in these are not judged alike, or can't be compared epoch by epoch.
_NOT_SEARCHED = (
    "cluster.",
    "eval.",
    "threat.",
    "data.path",
    "data.source",
    "data.limit",
    "data.val_fraction",
    "data.image_size",
    "train.epochs",
    "train.compute",
    "train.seed",
    "method.name",
)


@dataclass(frozen=True)
class Space:
    """What a search varies.

    Attributes:
        searched: Distribution of each searched setting, by full key.
        points: How many values of a setting a grid search tries, where the file says so.
        fixed: Settings that the space sets for all trials.
        content: The file's content as flat settings, to be written down.
    """

    searched: dict[str, Distribution]
    points: dict[str, int]
    fixed: Settings
    content: dict[str, Any]

    def default(self, config: RunConfig) -> Settings:
        """Returns the searched settings as `config` has them."""
        settings = flatten(asdict(config))
        settings |= {f"model.kwargs.{name}": value for name, value in config.model.kwargs.items()}
        return {key: settings.get(key) for key in self.searched}

    def grid(self) -> dict[str, list[Any]]:
        """Returns the values of each setting whose combinations a grid search tries."""
        return {
            key: spread_values(distribution, self.points.get(key, _GRID_POINTS))
            for key, distribution in self.searched.items()
        }

    def grid_size(self) -> int:
        """Returns how many combinations a grid search tries."""
        return math.prod(map(len, self.grid().values()))


def spread_values(distribution: Distribution, count: int = 3) -> list[Any]:
    """Returns `count` values from one end of a range to the other, or all of a choice.

    Three of them, the ends and the middle, must all be allowed for the range to be. Optuna has no
    such values: its grid sampler takes them ready made.
    """
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    spread = np.geomspace if distribution.log else np.linspace
    values = spread(distribution.low, distribution.high, count).tolist()
    if isinstance(distribution, IntDistribution):
        values = list(map(round, values))
    return list(dict.fromkeys(values))


def describe_distribution(distribution: Distribution) -> str:
    """Returns a distribution as a person would write it: `0.1 to 10, log` or `sgd or adamw`."""
    if isinstance(distribution, CategoricalDistribution):
        return " or ".join(map(str, distribution.choices))
    ends = f"{distribution.low:g} to {distribution.high:g}"
    return f"{ends}, log" if distribution.log else ends


def read_space(file: Path) -> Space:
    """Reads a space file.

    Raises:
        UserError: It can't be read, or an entry is neither a distribution nor a value.
    """
    return parse_space(_join_distributions(read_settings(file)), str(file))


def parse_space(content: Mapping[str, Any], name: str = "the space") -> Space:
    """Returns the space that flat `content` (full key to value or distribution) describes."""
    given = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    searched = {key: _parse_distribution(key, value) for key, value in given.items()}
    points = {key: _parse_points(key, value) for key, value in given.items() if "points" in value}
    fixed = {key: value for key, value in content.items() if key not in given}
    if not searched:
        raise UserError(
            f"{name} searches nothing; give a setting a range, such as {{uniform: [0, 1]}}"
        )
    for key in searched:
        if key.startswith(_NOT_SEARCHED):
            raise UserError(
                f"{key} can't be searched: all trials must be judged alike; set it with "
                f"--{key} or as a plain value in the space"
            )
    return Space(searched, points, fixed, dict(content))


def check_space(space: Space, default: RunConfig) -> None:
    """Tries every end of every range and every choice against the config.

    Args:
        space: The space.
        default: The default setting, with the space's fixed values.

    Raises:
        UserError: A key that does not exist, a value that its setting does not allow.
    """
    if default.data.val_fraction == 0:
        raise UserError(
            "data.val_fraction is 0; a search needs held-out images to judge its trials by"
        )
    if default.eval.beside:
        raise UserError(
            "eval.beside is true, but a search judges each epoch before the next, and uses every "
            "place for trials; leave it out"
        )
    workers = default.cluster.worker_range()
    if workers is not None and workers[0] != workers[1]:
        raise UserError(
            f"cluster.workers is {default.cluster.workers}; a search needs a fixed number"
        )
    for key, distribution in space.searched.items():
        for value in spread_values(distribution):
            override(default, {key: value})


def representatives(space: Space) -> list[Settings]:
    """Returns settings that cover all choices: what must be built once to know that it can be."""
    return [
        {key: value}
        for key, distribution in space.searched.items()
        if isinstance(distribution, CategoricalDistribution)
        for value in distribution.choices
    ]


def _join_distributions(settings: Settings) -> dict[str, Any]:
    """Undoes the flattening of `{uniform: [0, 1]}` into `method.beta.uniform`."""
    joined: dict[str, Any] = {}
    for key, value in settings.items():
        setting, _, kind = key.rpartition(".")
        if setting.count(".") == (2 if setting.startswith("model.kwargs.") else 1):
            entry = joined.setdefault(setting, {})
            if isinstance(entry, dict):
                entry[kind] = value
                continue
        joined[key] = value
    return joined


def _parse_distribution(key: str, content: Mapping[str, Any]) -> Distribution:
    """Reads `{uniform: [0, 1]}` and the like; `key` is the setting, for messages."""
    kinds = [name for name in content if name != "points"]
    if len(kinds) != 1:
        raise UserError(f"{key}: give one of {', '.join(_KINDS)}, such as {{uniform: [0, 1]}}")
    (kind,) = kinds
    if kind not in _KINDS:
        raise unknown_name(f"distribution of {key}", str(kind), _KINDS)
    values = content[kind]
    if kind == "choice":
        if not isinstance(values, list) or len(values) < 2 or "points" in content:
            raise UserError(f"{key}: choice needs a list of at least two values, not {values!r}")
        with warnings.catch_warnings():
            # Lists and the like can't be kept in Optuna's own storage, which we do not use.
            warnings.simplefilter("ignore")
            return CategoricalDistribution(values)
    if not isinstance(values, list) or len(values) != 2:
        raise UserError(f"{key}: {kind} needs [smallest, largest], not {values!r}")
    low, high = (check_value(key, value, Finite) for value in values)
    log = kind in ("loguniform", "logint")
    if not low < high:
        raise UserError(
            f"{key}: {kind} [{values[0]}, {values[1]}] is no range; the smaller value comes first"
        )
    if log and low <= 0:
        raise UserError(f"{key}: {kind} needs values above 0, not {values[0]}")
    if kind in ("uniform", "loguniform"):
        return FloatDistribution(low, high, log=log)
    if not (low.is_integer() and high.is_integer()):
        raise UserError(f"{key}: {kind} needs whole numbers, not {values!r}")
    return IntDistribution(int(low), int(high), log=log)


def _parse_points(key: str, content: Mapping[str, Any]) -> int:
    points = content["points"]
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise UserError(f"{key}: points is {points!r}; it must be a whole number, at least 2")
    return points
