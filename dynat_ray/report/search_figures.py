"""Figures of a search: clean against robust, all settings at once, each setting alone.

Not `optuna.visualization`: its Pareto and parallel plots draw completed trials only and all alike,
while the default setting, the winner and trials that were stopped must be told apart here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from scipy import stats

from dynat_ray.report.drawing import CLEAN, FAINT, NEUTRAL, ROBUST, SHADES, draw
from dynat_ray.report.text import value_text
from dynat_ray.searching.ranking import pareto_front
from dynat_ray.searching.space import Distribution, spread_values
from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial

_GREEN = "#3d7a4e"
# Fewer trials than this say nothing about a setting.
_LEAST_TRIALS = 4


def pareto_plot(trials: Sequence[Trial], best: Trial | None) -> str:
    """Returns clean against robust validation accuracy, with the front of finished trials."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel("robust accuracy under PGD, %")
        finished = [trial for trial in trials if trial.state == "finished" and trial.best]
        others = [trial for trial in trials if trial.state != "finished" and trial.best]
        front = np.array(sorted(_point(trial) for trial in pareto_front(finished))).reshape(-1, 2)
        axes.plot(front[:, 0], front[:, 1], color=NEUTRAL, linewidth=1, zorder=1, label="front")
        for group, words, face, edge in (
            (others, "not finished", "white", "#9aa4ae"),
            (finished, "finished", CLEAN, "white"),
        ):
            if group:
                points = np.array([_point(trial) for trial in group]).T
                axes.scatter(
                    points[0], points[1], s=46, label=words, facecolor=face, edgecolor=edge
                )
        for trial in trials:
            if not trial.best:
                continue
            if trial.number == DEFAULT_TRIAL or (best and trial.number == best.number):
                color = _GREEN if trial.number == DEFAULT_TRIAL else ROBUST
                words = "default setting" if trial.number == DEFAULT_TRIAL else "winner"
                axes.scatter(
                    *_point(trial),
                    s=150,
                    facecolor="none",
                    edgecolor=color,
                    linewidth=2,
                    label=words,
                )
            axes.annotate(
                str(trial.number),
                _point(trial),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=8.5,
                color=NEUTRAL,
            )
        axes.margins(0.12)
        figure.legend(loc="outside lower left", ncols=5, columnspacing=1.6)

    return draw(7.5, 4.6, paint)


def parallel_plot(trials: Sequence[Trial], searched: dict[str, Distribution]) -> str:
    """Returns every trial as a line through its settings to its robust accuracy."""
    shown = [t for t in trials if t.best and all(t.settings[k] is not None for k in searched)]
    robust = np.array([trial.best["validation_robust_accuracy"] for trial in shown if trial.best])
    low, high = (float(robust.min()), float(robust.max())) if len(robust) else (0.0, 1.0)
    span = max(high - low, 1e-9)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        names = [*searched, "robust accuracy"]
        axes.set_xlim(-0.3, len(names) - 0.7)
        axes.set_ylim(-0.12, 1.12)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_yticks([])
        axes.set_xticks(range(len(names)), [name.replace(".", ".\n", 1) for name in names])
        axes.tick_params(axis="x", length=0)
        # The best are drawn last, on top.
        for place in np.argsort(robust):
            trial = shown[place]
            ends = (robust[place] - low) / span
            heights = [*(_height(d, trial.settings[k]) for k, d in searched.items()), ends]
            axes.plot(
                range(len(names)),
                heights,
                color=SHADES(0.25 + 0.75 * ends) if trial.number else _GREEN,
                linewidth=2 if trial.state == "finished" else 1,
                linestyle="-" if trial.state == "finished" else "--",
                solid_capstyle="round",
            )
        marks = [_marks(distribution) for distribution in searched.values()]
        marks.append({0.0: f"{low:.1f}", 1.0: f"{high:.1f}"})
        axes.add_collection(
            LineCollection(
                [[(x, 0), (x, 1)] for x in range(len(names))], colors="#9aa4ae", zorder=0
            )
        )
        for x, axis in enumerate(marks):
            for height, words in axis.items():
                axes.annotate(
                    words,
                    (x, height),
                    xytext=(0, 5 if height > 0.5 else -12),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                    color=NEUTRAL,
                )

    return draw(10, 4.2, paint)


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
    trials: Sequence[Trial], searched: dict[str, Distribution], epochs: int
) -> list[Influence]:
    """Returns each setting's influence on the robust accuracy after equally many epochs.

    Args:
        trials: All trials.
        searched: The space.
        epochs: Trials that did fewer are left out; of the others what came later is.

    Returns:
        Strongest first; empty if there are too few trials.
    """
    compared = [trial for trial in trials if trial.after(epochs) is not None]
    if len(compared) < _LEAST_TRIALS:
        return []
    robust = np.array([float(trial.after(epochs) or 0.0) for trial in compared])
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
    return float(stats.spearmanr(numbers, accuracies).statistic)


def _explained(values: Sequence[Any], robust: NDArray[np.float64]) -> float:
    """Returns the share of the ranks' variance between choices: Kruskal and Wallis' H / (n - 1)."""
    names = np.array(list(map(str, values)))
    groups = [robust[names == name] for name in np.unique(names)]
    if len(groups) < 2 or np.ptp(robust) == 0:
        return 0.0
    return float(stats.kruskal(*groups).statistic) / (len(robust) - 1)


def influence_plot(
    trials: Sequence[Trial], searched: dict[str, Distribution], keys: Sequence[str], epochs: int
) -> str:
    """Returns robust accuracy after `epochs` epochs against each setting."""
    columns = min(len(keys), 4)
    rows = -(-len(keys) // columns)
    compared = [trial for trial in trials if trial.after(epochs) is not None]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(keys):
                axes.set_visible(False)
                continue
            _paint_setting(axes, compared, keys[place], searched[keys[place]], epochs)
        for row in grid:
            row[0].set_ylabel("robust, %")

    return draw(10, 2.7 * rows, paint)


def _paint_setting(
    axes: Axes, trials: Sequence[Trial], key: str, distribution: Distribution, epochs: int
) -> None:
    axes.set_title(key)
    for trial in trials:
        value = trial.settings[key]
        if isinstance(distribution, CategoricalDistribution):
            names = list(map(str, distribution.choices))
            if str(value) not in names:
                continue
            value = names.index(str(value))
        elif value is None:
            continue
        is_default = trial.number == DEFAULT_TRIAL
        axes.scatter(
            value,
            trial.after(epochs) or 0.0,
            s=60 if is_default else 34,
            marker="D" if is_default else "o",
            color=_GREEN if is_default else CLEAN,
            edgecolor="white",
        )
    marks = spread_values(distribution)
    if isinstance(distribution, CategoricalDistribution):
        axes.set_xticks(range(len(marks)), list(map(str, marks)))
        axes.set_xlim(-0.5, len(marks) - 0.5)
    else:
        axes.set_xscale("log" if distribution.log else "linear")
        axes.set_xticks(marks, list(map(value_text, marks)))
        axes.minorticks_off()
    axes.grid(axis="x", color=FAINT, linewidth=0.5)


def _point(trial: Trial) -> tuple[float, float]:
    assert trial.best is not None
    return trial.best["validation_clean_accuracy"], trial.best["validation_robust_accuracy"]


def _height(distribution: Distribution, value: Any) -> float:
    """Returns where a value stands on its axis, from 0 to 1.

    The default setting may lie outside the space: a little beyond the end, or amid the choices.
    """
    if isinstance(distribution, CategoricalDistribution):
        names = list(map(str, distribution.choices))
        return names.index(str(value)) / (len(names) - 1) if str(value) in names else 0.5
    low, high, number = distribution.low, distribution.high, float(value)
    if distribution.log:
        low, high, number = (math.log(max(each, 1e-300)) for each in (low, high, number))
    return float(np.clip((number - low) / (high - low), -0.05, 1.05))


def _marks(distribution: Distribution) -> dict[float, str]:
    """Returns what is written beside an axis, by height: the ends of a range, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices) - 1
        return {place / count: str(value) for place, value in enumerate(distribution.choices)}
    return {0.0: value_text(distribution.low), 1.0: value_text(distribution.high)}
