"""Figures of a search: clean against robust, all settings at once, each setting alone.

Not `optuna.visualization`: its Pareto and parallel plots draw completed trials only and all alike,
while the default setting, the winner and trials that were stopped must be told apart here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution

from dynat_ray.report.drawing import CLEAN, FAINT, NEUTRAL, ROBUST, SHADES, draw, drawn_name
from dynat_ray.report.text import value_text
from dynat_ray.searching.ranking import pareto_front
from dynat_ray.searching.space import Distribution, spread_values
from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial
from dynat_ray.storage.run_length import RunLength

_GREEN = "#3d7a4e"
# Of more axes the names stand in two rows.
_MOST_NAMES_ABREAST = 8
_LONGEST_CHOICE = 16


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
            if color := _color(trial, best):
                axes.scatter(
                    *_point(trial),
                    s=150,
                    facecolor="none",
                    edgecolor=color,
                    linewidth=2,
                    label="default setting" if trial.number == DEFAULT_TRIAL else "winner",
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


def parallel_plot(
    trials: Sequence[Trial], searched: dict[str, Distribution], best: Trial | None
) -> str:
    """Returns every trial as a line through its settings to its robust accuracy."""
    shown = [t for t in trials if t.best and all(t.settings[k] is not None for k in searched)]
    robust = np.array([trial.best["validation_robust_accuracy"] for trial in shown if trial.best])
    low, high = (float(robust.min()), float(robust.max())) if len(robust) else (0.0, 1.0)
    span = max(high - low, 1e-9)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        names = [*map(drawn_name, searched), "robust accuracy"]
        axes.set_xlim(-0.3, len(names) - 0.7)
        axes.set_ylim(-0.12, 1.12)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_yticks([])
        labels = [name.replace(".", ".\n", 1) for name in names]
        if len(names) > _MOST_NAMES_ABREAST:
            labels = ["\n\n" * (place % 2) + label for place, label in enumerate(labels)]
        axes.set_xticks(range(len(names)), labels)
        axes.tick_params(axis="x", length=0)
        # The best are drawn last, on top, and over them the two that are marked.
        for place in np.argsort(robust):
            trial = shown[place]
            ends = (robust[place] - low) / span
            heights = [*(_height(d, trial.settings[k]) for k, d in searched.items()), ends]
            mark = _color(trial, best)
            axes.plot(
                range(len(names)),
                heights,
                color=mark or SHADES(0.25 + 0.75 * ends),
                zorder=3 if mark else 2,
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


def influence_plot(
    trials: Sequence[Trial],
    searched: dict[str, Distribution],
    keys: Sequence[str],
    length: RunLength,
) -> str:
    """Returns robust accuracy after training for `length` against each setting."""
    columns = min(len(keys), 4)
    rows = -(-len(keys) // columns)
    compared = [trial for trial in trials if trial.after(length) is not None]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for place, axes in enumerate(grid.flat):
            if place >= len(keys):
                axes.set_visible(False)
                continue
            _paint_setting(axes, compared, keys[place], searched[keys[place]], length)
        for row in grid:
            row[0].set_ylabel("robust, %")

    return draw(10, 2.7 * rows, paint)


def _paint_setting(
    axes: Axes, trials: Sequence[Trial], key: str, distribution: Distribution, length: RunLength
) -> None:
    axes.set_title(drawn_name(key))
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
            trial.after(length) or 0.0,
            s=60 if is_default else 34,
            marker="D" if is_default else "o",
            color=_GREEN if is_default else CLEAN,
            edgecolor="white",
        )
    marks = spread_values(distribution)
    if isinstance(distribution, CategoricalDistribution):
        axes.set_xticks(
            range(len(marks)), [drawn_name(str(mark), _LONGEST_CHOICE) for mark in marks]
        )
        axes.set_xlim(-0.5, len(marks) - 0.5)
    else:
        axes.set_xscale("log" if distribution.log else "linear")
        axes.set_xticks(marks, list(map(value_text, marks)))
        axes.minorticks_off()
    axes.grid(axis="x", color=FAINT, linewidth=0.5)


def _color(trial: Trial, best: Trial | None) -> str:
    """Returns the colour that marks the default setting or the winner; empty for all others."""
    if trial.number == DEFAULT_TRIAL:
        return _GREEN
    return ROBUST if best and trial.number == best.number else ""


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
        names = [drawn_name(str(value), _LONGEST_CHOICE) for value in distribution.choices]
        return {place / count: name for place, name in enumerate(names)}
    return {0.0: value_text(distribution.low), 1.0: value_text(distribution.high)}
