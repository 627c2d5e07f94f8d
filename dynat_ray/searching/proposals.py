"""Which settings a search tries next: Optuna's samplers, asked trial by trial."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from dynat_ray.searching.ranking import objective_values
from dynat_ray.searching.space import Space
from dynat_ray.searching.study import SearchOptions
from dynat_ray.searching.trial_records import Trial
from dynat_ray.settings import Settings
from dynat_ray.storage.run_length import RunLength

# Trials before the Parzen estimator takes over from chance; the default setting is one of them.
_LEAST_RANDOM, _MOST_RANDOM = 4, 10


@dataclass(frozen=True)
class _Outcome:
    """How a trial went, as Optuna puts it."""

    state: TrialState
    values: tuple[float, ...] | None = None
    reached: dict[int, float] = field(default_factory=dict)


class Proposals:
    """The settings of trials 1, 2, ...; trial 0 is the default setting.

    Random draws and grid points follow from the seed and the trial's number alone, so that a
    resumed search goes on where it was; the estimator's also from how the trials before went.

    Args:
        space: What is searched.
        options: How.
        length: Of a whole trial.
    """

    def __init__(self, space: Space, options: SearchOptions, length: RunLength) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._options, self._length = options, length
        self._distributions: dict[str, BaseDistribution] = dict(space.searched)
        self._study = optuna.create_study(directions=["maximize"] * len(options.objectives))
        self._asked: dict[int, optuna.Trial] = {}
        self._grid = _grid_points(space, options.seed) if options.search == "grid" else []

    def ask(self, number: int) -> Settings:
        """Returns the settings of trial `number`, from 1."""
        if self._grid:
            return self._grid[number - 1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.sampler = self._sampler(number)
            self._asked[number] = self._study.ask(self._distributions)
        return dict(self._asked[number].params)

    def tell(self, trial: Trial) -> None:
        """Takes in how a trial went, of this search or of what was done before a resume.

        One with a value outside the space (perhaps the default setting) is left out.
        """
        outcome = self._outcome(trial)
        if asked := self._asked.pop(trial.number, None):
            for spent, accuracy in outcome.reached.items():
                asked.report(accuracy, spent)
            self._study.tell(asked, outcome.values, state=outcome.state)
            return
        try:
            past = create_trial(
                state=outcome.state,
                values=outcome.values,
                params=trial.settings,
                distributions=self._distributions,
                intermediate_values=outcome.reached,
            )
        except ValueError:
            return
        self._study.add_trial(past)

    def _outcome(self, trial: Trial) -> _Outcome:
        values = objective_values(trial, self._options.objectives)
        if trial.state == "failed" or values is None or not all(map(math.isfinite, values)):
            return _Outcome(TrialState.FAIL)
        if trial.state == "stopped" and len(values) == 1:
            spent = round(self._length.spent(trial.metrics[-1]))
            return _Outcome(TrialState.PRUNED, reached={spent: values[0]})
        # With several objectives Optuna knows no early stop; the accuracies so far must do.
        return _Outcome(TrialState.COMPLETE, values)

    def _sampler(self, number: int) -> BaseSampler:
        """Returns a sampler of a trial's own: a resumed search does not repeat its draws."""
        seed = int(np.random.SeedSequence([self._options.seed, number]).generate_state(1)[0])
        if self._options.search == "random":
            return RandomSampler(seed)
        at_random = min(max(self._options.trials // 4, _LEAST_RANDOM), _MOST_RANDOM)
        return TPESampler(seed=seed, n_startup_trials=at_random, constant_liar=True)


def _grid_points(space: Space, seed: int) -> list[Settings]:
    """Returns the whole grid, shuffled: a search that is cut short has seen all parts of it."""
    distributions: dict[str, BaseDistribution] = dict(space.searched)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=GridSampler(space.grid(), seed=seed))
        return [dict(study.ask(distributions).params) for _ in range(space.grid_size())]
