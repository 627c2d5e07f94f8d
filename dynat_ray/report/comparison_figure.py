"""The figure of a comparison: clean against robust accuracy."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynat_ray.report.comparison_rows import Row
from dynat_ray.report.drawing import CLEAN, FAINT, NEUTRAL, ROBUST, draw, drawn_name

# Methods with less than this part of the highest robust accuracy are named beside the figure: in it
# they would leave the others no room.
_SHOWN_FROM = 0.5
# Characters of a line above the figure.
_TITLE_WIDTH = 110


def clean_against_robust(rows: Sequence[Row], robust: str) -> str:
    """Returns the figure as the `src` of an HTML image, one point a row with error bars.

    Args:
        rows: The best and the last models of all methods.
        robust: The attack on the vertical axis.
    """
    known = [row for row in rows if robust in row.accuracies]
    least = _SHOWN_FROM * max((row.accuracies[robust].mean for row in known), default=0.0)
    shown = [row for row in known if row.accuracies[robust].mean >= least]
    beside = [row for row in known if row not in shown and row.model == "last"]

    def paint(figure: Figure) -> None:
        # Labels find their places on what is drawn.
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for label in dict.fromkeys(row.label for row in shown):
            _join(axes, [row for row in shown if row.label == label], robust)
        for model, color in (("best", CLEAN), ("last", ROBUST)):
            _points(axes, [row for row in shown if row.model == model], robust, model, color)
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel(f"accuracy under {drawn_name(robust)}, %")
        axes.margins(0.08)
        figure.legend(loc="outside lower left", ncols=2)
        if beside:
            words = ", ".join(
                f"{drawn_name(row.label)} ({row.accuracies['clean'].mean:.1f}, "
                f"{row.accuracies[robust].mean:.1f})"
                for row in beside
            )
            axes.set_title(
                textwrap.fill(f"below the figure (clean, robust): {words}", _TITLE_WIDTH),
                fontsize=9,
                color=NEUTRAL,
                weight="normal",
            )
        _label(axes, [row for row in shown if row.model == "last"], robust)

    return draw(8, 5.5, paint)


def _join(axes: Axes, rows: Sequence[Row], robust: str) -> None:
    """Joins a method's best and last models by a line."""
    axes.plot(
        [row.accuracies["clean"].mean for row in rows],
        [row.accuracies[robust].mean for row in rows],
        color=FAINT,
        linewidth=1,
        zorder=0,
    )


def _points(axes: Axes, rows: Sequence[Row], robust: str, model: str, color: str) -> None:
    for number, row in enumerate(rows):
        clean, attacked = row.accuracies["clean"], row.accuracies[robust]
        axes.errorbar(
            clean.mean,
            attacked.mean,
            xerr=clean.deviation,
            yerr=attacked.deviation,
            fmt="o",
            markersize=5,
            color=color,
            markerfacecolor=color if model == "last" else "white",
            capsize=2,
            elinewidth=0.8,
            label="" if number else f"{model} model",
        )


def _label(axes: Axes, rows: Sequence[Row], robust: str) -> None:
    """Writes each method's name near its point, away from other points and names."""
    places = [(row.accuracies["clean"].mean, row.accuracies[robust].mean) for row in rows]
    names = [
        axes.text(*place, drawn_name(row.label), fontsize=8.5, color=NEUTRAL)
        for place, row in zip(places, rows, strict=True)
    ]
    if names:
        axes.figure.draw_without_rendering()  # type: ignore[union-attr]
        adjust_text(
            names,
            *zip(*places, strict=True),
            ax=axes,
            expand=(1.4, 1.7),
            arrowprops={"arrowstyle": "-", "color": NEUTRAL, "linewidth": 0.5},
        )
