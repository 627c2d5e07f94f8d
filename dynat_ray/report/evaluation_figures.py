"""Figures of an evaluation: accuracy over eps, by class, distances, and what fooled became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynat_ray.report.drawing import (
    CLEAN,
    FAINT,
    NEUTRAL,
    ROBUST,
    SHADES,
    draw,
    drawn_name,
    radius_unit,
)
from dynat_ray.report.side_by_side import Curve

# Classes that a figure names; of more only the worst are shown.
MOST_CLASSES = 30
# Characters of a class name: more would leave no room for what is drawn.
_LONGEST_CLASS = 22


def eps_curve(series: Mapping[str, Curve], norm: str) -> str:
    """Returns accuracy over eps, a line for each attack.

    Args:
        series: For each attack eps, accuracy in percent and its 95 % interval.
        norm: `Linf` (drawn in 255ths), `L2` or `L1`.
    """
    scale, unit = radius_unit(norm)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        shades = [ROBUST, CLEAN, "#4f8a5b", "#8a5fa8", "#b08a2e", NEUTRAL]
        for place, (attack, points) in enumerate(series.items()):
            color = shades[place % len(shades)]
            radii = np.array([eps * scale for eps, _, _ in points])
            axes.plot(
                radii,
                [accuracy for _, accuracy, _ in points],
                color=color,
                marker="o",
                markersize=4.5,
                label=drawn_name(attack),
            )
            low, high = np.array([interval for _, _, interval in points]).T
            axes.fill_between(radii, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set_xticks(sorted({eps * scale for points in series.values() for eps, _, _ in points}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.set_xlabel(f"{norm} eps{unit}")
        axes.set_ylabel("right, %", color=NEUTRAL)
        axes.set_ylim(-2, 102)
        axes.legend()

    return draw(7, 3.6, paint)


def class_bars(names: Sequence[str], clean: Sequence[float], robust: Sequence[float]) -> str:
    """Returns accuracy without and under attack by class, in percent, the least robust last."""
    order = np.argsort(robust, kind="stable")[:MOST_CLASSES][::-1]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = np.arange(len(order))[::-1]
        before, after = np.array(clean)[order], np.array(robust)[order]
        axes.hlines(places, after, before, color=FAINT, linewidth=5, zorder=1)
        axes.scatter(before, places, color=CLEAN, s=46, label="without attack", zorder=2)
        axes.scatter(after, places, color=ROBUST, s=46, label="under attack", zorder=2)
        axes.set_yticks(places, [drawn_name(names[place], _LONGEST_CLASS) for place in order])
        axes.grid(False, axis="y")
        axes.set_xlim(-3, 103)
        axes.set_xlabel("right, %")
        figure.legend(loc="outside lower left", ncols=2)

    return draw(6, 1.3 + 0.28 * len(order), paint)


def confusion(names: Sequence[str], labels: NDArray[np.int64], became: NDArray[np.int64]) -> str:
    """Returns which classes images that an attack fooled were taken for.

    Args:
        names: Of all classes.
        labels: True classes `(n,)` of the fooled images.
        became: What the model said `(n,)`.
    """
    count = len(names)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (labels, became), 1)
    shown = np.sort(np.argsort(-(table.sum(0) + table.sum(1)), kind="stable")[:MOST_CLASSES])
    table = table[np.ix_(shown, shown)]
    few = len(shown) <= 12
    labels_shown = [drawn_name(names[place], _LONGEST_CLASS) for place in shown]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(table, cmap=SHADES, vmin=0, vmax=max(1, table.max()))
        axes.set_xticks(range(len(shown)), labels_shown, rotation=45, ha="right")
        axes.set_yticks(range(len(shown)), labels_shown)
        axes.set_xlabel("taken for")
        axes.set_ylabel("true class", color=NEUTRAL)
        axes.grid(False)
        if few:
            for row, column in zip(*table.nonzero(), strict=True):
                dark = table[row, column] > 0.55 * table.max()
                axes.text(
                    column,
                    row,
                    str(table[row, column]),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="#ffffff" if dark else "#1d2730",
                )

    side = 5.2 if few else 7
    return draw(side, side * 0.92, paint)


def distance_curve(distances: NDArray[np.float64], norm: str, eps: Sequence[float]) -> str:
    """Returns the share of images whose nearest adversarial image is farther than a radius.

    Args:
        distances: FAB's, `(n,)`; 0: wrong as it is, infinite: none found.
        norm: `Linf` (drawn in 255ths), `L2` or `L1`.
        eps: Radii of the evaluation, marked.
    """
    scale, unit = radius_unit(norm)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        finite = np.sort(distances[np.isfinite(distances)]) * scale
        left = 100 * (1 - np.arange(1, len(finite) + 1) / len(distances))
        axes.step([0, *finite], [100, *left], where="post", color=ROBUST)
        marked = [radius * scale for radius in eps if radius > 0]
        for radius in marked:
            axes.axvline(radius, color=NEUTRAL, linewidth=0.9, linestyle=":")
        top = np.quantile(finite, 0.99) if len(finite) else 0
        axes.set_xlim(0, max([top * 1.1, *marked, 1e-6]) * 1.02)
        axes.set_ylim(-2, 102)
        axes.set_xlabel(f"{norm} distance{unit}")
        axes.set_ylabel("images farther than this, %", color=NEUTRAL)

    return draw(6, 3.2, paint)
