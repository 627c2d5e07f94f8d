"""What each searched setting seems to do to the robust accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

from dynat_ray.searching.space import Distribution
from dynat_ray.searching.trial_records import Trial
from dynat_ray.storage.run_length import RunLength

# Fewer trials than this say nothing about a setting.
_LEAST_TRIALS = 4


@dataclass(frozen=True)
class Influence:
    """What a setting seems to do.

    Attributes:
        key: The setting.
        strength: For numbers Spearman's rank correlation with robust accuracy, in [-1, 1]; for
            choices the share of the ranks' variance between the choices, in [0, 1].
        signed: The strength has a direction.
    """

    key: str
    strength: float
    signed: bool

    def words(self) -> str:
        """Returns a short phrase."""
        if not self.signed:
            return f"the choice explains {100 * self.strength:.0f} % of the ranks' variance"
        if abs(self.strength) < 0.2:
            return f"no clear trend (rank correlation {self.strength:+.2f})"
        trend = "more is better" if self.strength > 0 else "less is better"
        return f"{trend} (rank correlation {self.strength:+.2f})"


def influences(
    trials: Sequence[Trial], searched: dict[str, Distribution], length: RunLength
) -> list[Influence]:
    """Returns each setting's influence on the robust accuracy after training for equally long.

    Args:
        trials: All trials.
        searched: The space.
        length: Trials that did less are left out; of the others what came later is.

    Returns:
        Strongest first; empty if there are too few trials.
    """
    compared = [trial for trial in trials if trial.after(length) is not None]
    if len(compared) < _LEAST_TRIALS:
        return []
    robust = np.array([float(trial.after(length) or 0.0) for trial in compared])
    found = []
    for key, distribution in searched.items():
        values = [trial.settings[key] for trial in compared]
        signed = not isinstance(distribution, CategoricalDistribution)
        strength = _rank_correlation(values, robust) if signed else _explained(values, robust)
        found.append(Influence(key, strength, signed))
    return sorted(found, key=lambda each: -abs(each.strength))


def _rank_correlation(values: Sequence[float | None], robust: NDArray[np.float64]) -> float:
    """Returns Spearman's correlation; the default setting may lack a value and is left out then."""
    known = [place for place, value in enumerate(values) if value is not None]
    numbers, accuracies = [values[place] for place in known], robust[known]
    if len(set(numbers)) < 2 or np.ptp(accuracies) == 0:
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(numbers, accuracies).statistic)


def _explained(values: Sequence[Any], robust: NDArray[np.float64]) -> float:
    """Returns the share of the ranks' variance between choices: Kruskal and Wallis' H / (n - 1)."""
    names = np.array(list(map(str, values)))
    groups = [robust[names == name] for name in np.unique(names)]
    if len(groups) < 2 or np.ptp(robust) == 0:
        return 0.0
    from scipy.stats import kruskal

    return float(kruskal(*groups).statistic) / (len(robust) - 1)
