"""Several evaluations side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from matplotlib.figure import Figure

from dynat_ray.bounded_file import read_bounded
from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.radius import format_radius
from dynat_ray.report.drawing import COLOURS, NEUTRAL, draw, drawn_name, radius_unit
from dynat_ray.report.text import accuracy_text, align_columns, most_telling
from dynat_ray.shown_text import shown_text

# Characters of a model's name, which may be a long path.
_LONGEST_NAME = 60

# An attack's eps, accuracy and 95 % interval, for each of its radii.
Curve = list[tuple[float, float, list[float]]]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation wrote.

    Attributes:
        file: Its JSON file.
        content: What that holds.
    """

    file: Path
    content: dict[str, Any]

    @property
    def norm(self) -> str:
        """`Linf`, `L2` or `L1`."""
        return str(self.content["norm"])

    @property
    def name(self) -> str:
        """The model, as the user named it."""
        return str(self.content["model"])

    @property
    def points(self) -> dict[float, dict[str, dict[str, Any]]]:
        """For each eps, ascending, the entry of each attack."""
        if "results" in self.content:
            return {float(self.content["eps"]): self.content["results"]}
        return {float(point["eps"]): point["results"] for point in self.content["curve"]}

    @property
    def attacks(self) -> list[str]:
        """Names of all attacks."""
        return list(dict.fromkeys(name for found in self.points.values() for name in found))

    def cells(self) -> dict[str, dict[str, Any]]:
        """Returns all entries by column: `clean`, or attack and eps."""
        cells: dict[str, dict[str, Any]] = {}
        for eps, results in self.points.items():
            radius = format_radius(eps, self.norm)
            for attack, entry in results.items():
                if attack == "clean":
                    cells.setdefault(attack, entry)
                elif eps > 0:
                    cells[f"{attack}, {self.norm} {radius}"] = entry
        return cells


def read_evaluation(file: Path) -> Evaluation:
    """Reads what an evaluation wrote.

    Raises:
        UserError: It is not there or nothing that an evaluation wrote.
    """
    try:
        evaluation = Evaluation(file, json.loads(read_bounded(file)))
        entries = [entry for found in evaluation.points.values() for entry in found.values()]
        complete = bool(entries) and evaluation.norm in get_args(Norm) and bool(evaluation.name)
        complete = complete and {"data", "model"} <= evaluation.content["checksums"].keys()
        complete = complete and _are_numbers(evaluation.content["samples"], *evaluation.points)
        complete = complete and all(
            _are_numbers(entry["accuracy"], entry["samples"], *entry["interval"])
            and len(entry["interval"]) == 2
            for entry in entries
        )
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        complete = False
    if not complete:
        raise UserError(
            f"{file} is not the JSON file of an evaluation; give one that "
            "python -m dynat_ray.evaluate wrote"
        )
    return evaluation


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def labels_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Returns a short name for each: the model's, with the file where that is not enough."""
    names = [shown_text(evaluation.name) for evaluation in evaluations]
    # As long as figures show them.
    drawn = [drawn_name(name, _LONGEST_NAME) for name in names]
    return [
        name if drawn.count(short) == 1 else f"{name} ({shown_text(evaluation.file.name)})"
        for name, short, evaluation in zip(names, drawn, evaluations, strict=True)
    ]


def side_by_side(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the columns, and a row for each evaluation with its `label` and `cells`.

    Where some columns are of at least two evaluations, only those.
    """
    cells = [evaluation.cells() for evaluation in evaluations]
    columns = list(dict.fromkeys(column for found in cells for column in found))
    shared = [column for column in columns if sum(column in found for found in cells) > 1]
    columns = shared or columns
    rows = [
        {"label": label, "cells": [found.get(column) for column in columns]}
        for label, found in zip(labels_of(evaluations), cells, strict=True)
    ]
    return columns, rows


def side_by_side_table(evaluations: Sequence[Evaluation]) -> str:
    """Returns the table for the terminal: a row for each evaluation."""
    columns, rows = side_by_side(evaluations)
    lines = [["", *columns]]
    for row in rows:
        lines.append([row["label"], *map(accuracy_text, row["cells"])])
    return align_columns(lines)


def side_by_side_figure(evaluations: Sequence[Evaluation]) -> str:
    """Returns accuracies with their intervals: over eps where several have a curve, else bars."""
    curves = [_curve_of(evaluation) for evaluation in evaluations]
    labels = labels_of(evaluations)

    def lines(figure: Figure) -> None:
        axes = figure.subplots()
        scale, unit = radius_unit(evaluations[0].norm)
        for place, (label, (attack, points)) in enumerate(zip(labels, curves, strict=True)):
            color = COLOURS[place % len(COLOURS)]
            radii = np.array([eps * scale for eps, _, _ in points])
            accuracies = [accuracy for _, accuracy, _ in points]
            axes.plot(
                radii,
                accuracies,
                color=color,
                marker="o",
                label=drawn_name(f"{label}, {attack}", 90),
            )
            low, high = np.array([interval for _, _, interval in points]).T
            axes.fill_between(radii, low, high, color=color, alpha=0.13, linewidth=0)
        axes.set_xlabel(f"eps{unit}")
        axes.set_ylabel("right, %", color=NEUTRAL)
        axes.set_ylim(-2, 102)
        axes.legend()

    def bars(figure: Figure) -> None:
        axes = figure.subplots()
        columns, rows = side_by_side(evaluations)
        width = 0.8 / len(rows)
        for place, row in enumerate(rows):
            known = [(x, cell) for x, cell in enumerate(row["cells"]) if cell]
            if not known:
                continue
            middles = np.array([x for x, _ in known]) + width * (place - (len(rows) - 1) / 2)
            heights = np.array([cell["accuracy"] for _, cell in known])
            errors = np.abs(np.array([cell["interval"] for _, cell in known]).T - heights)
            axes.bar(
                middles,
                heights,
                width * 0.92,
                yerr=errors,
                color=COLOURS[place % len(COLOURS)],
                error_kw={"elinewidth": 1, "ecolor": NEUTRAL},
                label=drawn_name(row["label"], _LONGEST_NAME),
            )
        axes.set_xticks(range(len(columns)), [drawn_name(name) for name in columns])
        axes.grid(False, axis="x")
        axes.set_ylabel("right, %", color=NEUTRAL)
        axes.set_ylim(0, 102)
        figure.legend(loc="outside lower left", ncols=2)

    several = sum(len(points) > 1 for _, points in curves) > 1
    same_norm = len({evaluation.norm for evaluation in evaluations}) == 1
    return draw(10, 3.8, lines if several and same_norm else bars)


def strongest(results: dict[str, dict[str, Any]]) -> str:
    """Returns the attack that says most: AutoAttack, else what left the fewest samples right.

    AutoAttack goes first since it may have seen fewer samples than the others, so that
    accuracies alone do not order them. `clean` where there is no attack.
    """
    attacks = [name for name in results if name != "clean"]
    weakest = min(attacks, key=lambda name: results[name]["accuracy"], default="clean")
    return most_telling(attacks) or weakest


def curve_of(evaluation: Evaluation, attack: str) -> Curve:
    """Returns an attack's accuracies at all eps at which it was run, ascending."""
    return [
        (eps, results[attack]["accuracy"], results[attack]["interval"])
        for eps, results in evaluation.points.items()
        if attack in results
    ]


def _curve_of(evaluation: Evaluation) -> tuple[str, Curve]:
    points = evaluation.points
    attack = strongest(points[max(points)])
    return attack, curve_of(evaluation, attack)
