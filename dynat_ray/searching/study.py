"""How a search goes about it, and the file that says so in the search's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from dynat_ray.config import RunConfig, require
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.searching.ranking import OBJECTIVES
from dynat_ray.searching.space import Space, parse_space
from dynat_ray.settings import build_config, flatten
from dynat_ray.storage.atomic import write_whole

Sampler = Literal["tpe", "random", "grid"]
_FILE = "search.yaml"
# What may be changed when a search is resumed; the rest would make its trials incomparable.
_MAY_CHANGE = ("trials", "finalists")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search.

    Attributes:
        trials: How many, the default setting included.
        search: Which of Optuna's samplers proposes settings.
        objectives: `("robust",)`, or `("clean", "robust")` for both at once.
        seed: Of the proposals.
        finalists: How many of the best AutoAttack judges in the end.
        first_rung: Epochs after which trials may first be stopped; 0: never.
        reduction: Of the trials that reach a rung, one in so many goes on.
    """

    trials: int
    search: Sampler = "tpe"
    objectives: tuple[str, ...] = ("robust",)
    seed: int = 0
    finalists: int = 3
    first_rung: int = 0
    reduction: float = 2.0

    def __post_init__(self) -> None:
        require(self.trials >= 1, "--trials", self.trials, "at least 1")
        require(self.finalists >= 1, "--finalists", self.finalists, "at least 1")
        require(self.first_rung >= 0, "--first-rung", self.first_rung, "0 (never) or more epochs")
        require(self.reduction > 1, "--reduction", self.reduction, "more than 1")
        require(self.seed >= 0, "--seed", self.seed, "0 or more")
        for name in self.objectives:
            if name not in OBJECTIVES:
                raise unknown_name("objective", name, OBJECTIVES)
        if len(set(self.objectives)) != len(self.objectives) or "robust" not in self.objectives:
            raise UserError("--objectives must be robust, or clean,robust")


@dataclass(frozen=True)
class Search:
    """A whole search: what is varied, from where, and how.

    Attributes:
        space: What is varied.
        default: The setting of trial 0, which all others change.
        options: How.
    """

    space: Space
    default: RunConfig
    options: SearchOptions


def write_search(folder: Path, search: Search) -> None:
    """Writes `search.yaml`."""
    content = {
        "options": asdict(search.options) | {"objectives": list(search.options.objectives)},
        "space": search.space.content,
        "default": asdict(search.default),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / _FILE, yaml.safe_dump(content, sort_keys=False))


def read_search(folder: Path) -> Search:
    """Reads `search.yaml`; raises `UserError` if the folder is not a search's."""
    try:
        content: dict[str, Any] = yaml.safe_load((folder / _FILE).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{folder} is not the folder of a search: {error}") from None
    options = content["options"]
    return Search(
        parse_space(content["space"]),
        build_config([flatten(content["default"])]),
        SearchOptions(**options | {"objectives": tuple(options["objectives"])}),
    )


def open_search(folder: Path, search: Search, *, resume: bool) -> None:
    """Creates a search's folder, or opens it again.

    Raises:
        UserError: It exists and `resume` is False; the search that is there is another one.
    """
    if (folder / _FILE).exists():
        if not resume:
            raise UserError(
                f"the search {folder} exists; add --resume to go on with it, or give another --name"
            )
        before = read_search(folder)
        for name, old, new in _settings(before, search):
            if old != new and name not in _MAY_CHANGE and not name.startswith("cluster."):
                raise UserError(
                    f"the search {folder} can't be resumed with another setting ({name}: {old!r} "
                    f"-> {new!r}); give the new search another --name"
                )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"the folder {folder} exists and is not a search's; give another --name")
    try:
        write_search(folder, search)
    except OSError as error:
        raise UserError(f"the folder {folder} can't be written: {error}") from None


def _settings(before: Search, now: Search) -> list[tuple[str, Any, Any]]:
    parts = [
        {"space": each.space.content} | flatten(asdict(each.default)) | asdict(each.options)
        for each in (before, now)
    ]
    keys = dict.fromkeys([*parts[0], *parts[1]])
    return [(key, parts[0].get(key), parts[1].get(key)) for key in keys]
