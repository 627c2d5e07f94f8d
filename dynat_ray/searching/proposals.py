"""Which settings a search tries next."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from dynat_ray.errors import UserError
from dynat_ray.searching.distributions import Choice, Distribution, Range
from dynat_ray.settings import Settings

Kind = Literal["tpe", "random", "grid"]
# Trials before Optuna's estimator takes over from chance; the default setting is one of them.
_LEAST_RANDOM, _MOST_RANDOM = 4, 10


@dataclass(frozen=True)
class Told:
    """How a trial went.

    Attributes:
        settings: What it tried.
        values: An accuracy in percent for each objective, of its best epoch; None: it failed.
        epochs: How many it was given.
        stopped: It was stopped before its last epoch.
    """

    settings: Settings
    values: tuple[float, ...] | None
    epochs: int
    stopped: bool = False


class Proposals(Protocol):
    """A way to search. Trial 0, the default setting, is not proposed."""

    def propose(self, number: int) -> Settings:
        """Returns the settings of trial `number`, from 1."""
        ...

    def tell(self, number: int, told: Told) -> None:
        """Takes in how a trial went, of this search or of what was done before a resume."""
        ...


class Random:
    """Independent draws, the same for the same seed and trial number."""

    def __init__(self, searched: dict[str, Distribution], seed: int) -> None:
        self._searched, self._seed = searched, seed

    def propose(self, number: int) -> Settings:
        """Returns a draw."""
        generator = np.random.default_rng([self._seed, number])
        return {key: each.draw(generator) for key, each in self._searched.items()}

    def tell(self, number: int, told: Told) -> None:
        """Chance learns nothing."""


class Grid:
    """Every combination of the distributions' grid values, in a shuffled order."""

    def __init__(self, searched: dict[str, Distribution], seed: int) -> None:
        self._keys = list(searched)
        self._points = list(itertools.product(*(each.grid() for each in searched.values())))
        # A search that is cut short has seen all parts of the space.
        np.random.default_rng(seed).shuffle(self._points)

    def propose(self, number: int) -> Settings:
        """Returns a point of the grid."""
        return dict(zip(self._keys, self._points[number - 1], strict=True))

    def tell(self, number: int, told: Told) -> None:
        """A grid learns nothing."""


class TreeParzen:
    """Optuna's tree-structured Parzen estimator, for one objective or several.

    Args:
        searched: The space.
        seed: Seed of its draws.
        objectives: Names of what is maximised.
        trials: How many trials the search has, which decides how many of the first are random.
    """

    def __init__(
        self,
        searched: dict[str, Distribution],
        seed: int,
        objectives: Sequence[str],
        trials: int,
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError(
                "--search tpe needs Optuna: pip install 'dynat-ray[tune]', or give --search random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._distributions = {key: _as_optuna(each) for key, each in searched.items()}
        self._seed, self._several = seed, len(objectives) > 1
        self._random = min(max(trials // 4, _LEAST_RANDOM), _MOST_RANDOM)
        self._study = optuna.create_study(directions=["maximize"] * len(objectives))
        self._asked: dict[int, Any] = {}

    def propose(self, number: int) -> Settings:
        """Returns what the estimator suggests, knowing which trials still run."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A sampler of its own for each number: a resumed search does not repeat its draws.
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]),
                n_startup_trials=self._random,
                constant_liar=True,
            )
            self._asked[number] = self._study.ask(fixed_distributions=self._distributions)
        return dict(self._asked[number].params)

    def tell(self, number: int, told: Told) -> None:
        """Takes in a trial; one outside the space (perhaps the default) is left out."""
        states = self._optuna.trial.TrialState
        values = told.values
        if values is not None and not all(map(math.isfinite, values)):
            values = None
        # With several objectives Optuna knows no early stop; the accuracies so far must do.
        stopped = told.stopped and not self._several and values is not None
        state = states.FAIL if values is None else states.PRUNED if stopped else states.COMPLETE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if number in self._asked:
                trial = self._asked.pop(number)
                if stopped and values is not None:
                    trial.report(values[0], told.epochs)
                self._study.tell(trial, values if state == states.COMPLETE else None, state=state)
            elif all(_contains(d, told.settings[k]) for k, d in self._distributions.items()):
                self._study.add_trial(
                    self._optuna.trial.create_trial(
                        state=state,
                        values=values if state == states.COMPLETE else None,
                        params=told.settings,
                        distributions=self._distributions,
                        intermediate_values={told.epochs: values[0]} if stopped and values else {},
                    )
                )


def get_proposals(
    kind: Kind,
    searched: dict[str, Distribution],
    *,
    seed: int,
    objectives: Sequence[str],
    trials: int,
) -> Proposals:
    """Returns the way to search called `kind`."""
    if kind == "tpe":
        return TreeParzen(searched, seed, objectives, trials)
    return Grid(searched, seed) if kind == "grid" else Random(searched, seed)


def grid_size(searched: dict[str, Distribution]) -> int:
    """Returns how many combinations a grid search tries."""
    return math.prod(len(each.grid()) for each in searched.values())


def _as_optuna(distribution: Distribution) -> Any:
    import optuna

    if isinstance(distribution, Range) and distribution.whole:
        return optuna.distributions.IntDistribution(
            int(distribution.low), int(distribution.high), log=distribution.log
        )
    if isinstance(distribution, Range):
        return optuna.distributions.FloatDistribution(
            distribution.low, distribution.high, log=distribution.log
        )
    assert isinstance(distribution, Choice)
    return optuna.distributions.CategoricalDistribution(distribution.values)


def _contains(distribution: Any, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
