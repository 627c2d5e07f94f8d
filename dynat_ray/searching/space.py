"""Search spaces: a YAML file of settings, each with a distribution or a fixed value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.searching.distributions import Choice, Distribution, read_distribution
from dynat_ray.settings import Settings, flatten, override, read_settings

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
    "train.seed",
    "method.name",
)


@dataclass(frozen=True)
class Space:
    """What a search varies.

    Attributes:
        searched: Distribution of each searched setting, by full key.
        fixed: Settings that the space sets for all trials.
        content: The file's content as flat settings, to be written down.
    """

    searched: dict[str, Distribution]
    fixed: Settings
    content: dict[str, Any]

    def default(self, config: RunConfig) -> Settings:
        """Returns the searched settings as `config` has them."""
        settings = flatten(asdict(config))
        settings |= {f"model.kwargs.{name}": value for name, value in config.model.kwargs.items()}
        return {key: settings.get(key) for key in self.searched}


def read_space(file: Path) -> Space:
    """Reads a space file.

    Raises:
        UserError: It can't be read, or an entry is neither a distribution nor a value.
    """
    return parse_space(_join_distributions(read_settings(file)), str(file))


def parse_space(content: Mapping[str, Any], name: str = "the space") -> Space:
    """Returns the space that flat `content` (full key to value or distribution) describes."""
    searched = {
        key: read_distribution(key, value)
        for key, value in content.items()
        if isinstance(value, Mapping)
    }
    fixed = {key: value for key, value in content.items() if key not in searched}
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
    return Space(searched, fixed, dict(content))


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
    workers = default.cluster.worker_range()
    if workers is not None and workers[0] != workers[1]:
        raise UserError(
            f"cluster.workers is {default.cluster.workers}; a search needs a fixed number"
        )
    for key, distribution in space.searched.items():
        for value in distribution.extremes():
            override(default, {key: value})


def representatives(space: Space) -> list[Settings]:
    """Returns settings that cover all choices: what must be built once to know that it can be."""
    choices = {k: d.values for k, d in space.searched.items() if isinstance(d, Choice)}
    return [{key: value} for key, values in choices.items() for value in values]


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
