"""The figure of differences: a point with its interval for each pair and measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from dynat_ray.report.difference_rows import DifferenceRow
from dynat_ray.report.drawing import COLOURS, NEUTRAL, draw, drawn_name

# Characters of a pair's name on one line.
_LONGEST_LINE = 30


def difference_figure(rows: Sequence[DifferenceRow]) -> str:
    """Returns the figure as the `src` of an HTML image: a line a pair, a colour a measure."""
    pairs = list(dict.fromkeys((row.a, row.b) for row in rows))
    measures = list(dict.fromkeys(row.measure for row in rows))
    # In a pair's line measures stand below each other, the first on top.
    step = 0.7 / max(1, len(measures))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=NEUTRAL, linewidth=1)
        for place, measure in enumerate(measures):
            found = [row for row in rows if row.measure == measure]
            heights = [
                -pairs.index((row.a, row.b)) + step * ((len(measures) - 1) / 2 - place)
                for row in found
            ]
            points = np.array([row.difference.points for row in found])
            below = points - [row.difference.low for row in found]
            above = [row.difference.high for row in found] - points
            axes.errorbar(
                points,
                heights,
                xerr=np.maximum(0, [below, above]),
                fmt="o",
                markersize=5,
                capsize=2.5,
                elinewidth=1.4,
                color=COLOURS[place % len(COLOURS)],
                label=drawn_name(measure),
            )
        names = [_name(drawn_name(a), drawn_name(b)) for a, b in pairs]
        axes.set_yticks([-place for place in range(len(pairs))], names)
        axes.set_ylim(0.6 - len(pairs), 0.6)
        axes.grid(False, axis="y")
        axes.set_xlabel("difference of accuracies, points")
        figure.legend(loc="outside lower left", ncols=max(1, min(4, len(measures))))

    return draw(8, 1.4 + len(pairs) * (0.3 + 0.16 * len(measures)), paint)


def _name(a: str, b: str) -> str:
    """Returns a pair's name, on two lines where it would leave the figure no room."""
    between = " - " if len(a) + len(b) <= _LONGEST_LINE else "\n- "
    return f"{a}{between}{b}"
