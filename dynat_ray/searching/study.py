"""How a search goes about it, and the file that says so in the search's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError, unknown_name
from dynat_ray.searching.search_objectives import OBJECTIVES
from dynat_ray.searching.space import Space, parse_space
from dynat_ray.settings import Settings, build_config, flatten, read_sections
from dynat_ray.storage.resumable_folder import FolderKind, open_folder
from dynat_ray.storage.run_length import RunLength
from dynat_ray.value_types import AboveOne, NonNegativeInt, PositiveInt, Seed, check_value

Sampler = Literal["tpe", "random", "grid"]
_FILE = "search.yaml"
# What may be changed when a search is resumed; the rest would make its trials incomparable.
_MAY_CHANGE = ("trials", "finalists", "cluster.", "train.trackers")
_SEARCH = FolderKind(
    name="search",
    file=_FILE,
    read=lambda folder: _settings(read_search(folder)),
    may_change=lambda key, *_: key.startswith(_MAY_CHANGE),
)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search.

    Attributes:
        trials: How many, the default setting included.
        search: Which of Optuna's samplers proposes settings.
        objectives: `("robust",)`, or `("clean", "robust")` for both at once.
        seed: Of the proposals.
        finalists: How many of the best AutoAttack judges in the end.
        first_rung: Epochs, or units of compute where `train.compute` ends a trial, after which
            trials may first be stopped; 0: never.
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
        check_value("--trials", self.trials, PositiveInt)
        check_value("--finalists", self.finalists, PositiveInt)
        check_value("--first-rung", self.first_rung, NonNegativeInt)
        check_value("--reduction", self.reduction, AboveOne)
        check_value("--seed", self.seed, Seed)
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

    @property
    def length(self) -> RunLength:
        """How long a trial is that nothing stops."""
        return RunLength.of(self.default.train)

    @property
    def first_rung(self) -> RunLength | None:
        """After what trials may first be stopped; None: never."""
        rung = self.options.first_rung
        return replace(self.length, total=rung) if rung else None

    def describe_stops(self) -> str:
        """Returns in words when trials are stopped; empty: never."""
        if self.first_rung is None:
            return ""
        return (
            f"first after {self.first_rung.total:g} of {self.length}, one in "
            f"{self.options.reduction:g} goes on"
        )


def read_search(folder: Path) -> Search:
    """Reads `search.yaml`; raises `UserError` if the folder is not a search's."""
    try:
        content = read_sections(folder / _FILE)
        options = content["options"]
        return Search(
            parse_space(content["space"]),
            build_config([flatten(content["default"])]),
            SearchOptions(**options | {"objectives": tuple(options["objectives"])}),
        )
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder} is not the folder of a search: {error}") from None


def open_search(folder: Path, search: Search, *, resume: bool) -> None:
    """Creates a search's folder, or opens it again, and writes `search.yaml`.

    Raises:
        UserError: It exists and `resume` is False; the search that is there is another one.
    """
    content = {
        "options": asdict(search.options) | {"objectives": list(search.options.objectives)},
        "space": search.space.content,
        "default": asdict(search.default),
    }
    text = yaml.safe_dump(content, sort_keys=False)
    open_folder(_SEARCH, folder, _settings(search), text, resume=resume)


def _settings(search: Search) -> Settings:
    return (
        {"space": search.space.content} | flatten(asdict(search.default)) | asdict(search.options)
    )
