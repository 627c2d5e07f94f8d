"""The page of `evaluate --norms`: accuracy under each norm and all, and which norm decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynat_ray.errors import UserError
from dynat_ray.evaluation.results import beside
from dynat_ray.radius import format_radius
from dynat_ray.report.drawing import COLOURS, NEUTRAL, draw, drawn_name
from dynat_ray.report.evaluation_differences import file_of_samples
from dynat_ray.report.page import write_page
from dynat_ray.report.side_by_side import Evaluation, read_evaluation, strongest
from dynat_ray.report.text import interval_text, most_telling
from dynat_ray.shown_text import shown_text


@dataclass(frozen=True)
class _UnderNorm:
    """What became of test images under one norm's attack, all `(n,)`."""

    name: str
    labels: NDArray[np.int64]
    right: NDArray[np.bool_]
    right_unattacked: NDArray[np.bool_]


def write_norms_page(file: Path, content: Mapping[str, Any]) -> Path:
    """Writes the page beside the JSON file of several norms.

    Args:
        file: The JSON file; those of the norms, which it names, lie beside it.
        content: What it holds.

    Returns:
        The page.

    Raises:
        UserError: A norm's files can't be read, or the page can't be written.
    """
    norms = [read_evaluation(file.with_name(found["file"])) for found in content["norms"]]
    names = [_name(found) for found in content["norms"]]
    flagged = [
        {"norm": name, **check}
        for name, evaluation in zip(names, norms, strict=True)
        for check in evaluation.content.get("checks", [])
        if check["flagged"]
    ]
    page = {
        "name": content["model"],
        "facts": {
            "data": content["data"],
            "attacks": ", ".join(content["attacks"]),
            "seed": str(content["seed"]),
        },
        "norms": [
            {"name": name, "page": beside(Path(found["file"]), ".html").name}
            for name, found in zip(names, content["norms"], strict=True)
        ],
        "flagged": flagged,
        "interval_text": interval_text,
        "decided": most_telling(content["attacks"]) is not None,
        "rows": [],
        "falls": None,
        "figure": None,
        "classes": [],
        "attack": "",
    }
    if content["union_only"]:
        page |= {"narrowing": _narrowing(content, names)}
    else:
        page |= {"narrowing": None, **_of_all_images(content, names, norms)}
    return write_page(beside(file, ".html"), "norms.html", page)


def _name(found: Mapping[str, Any]) -> str:
    return f"{found['norm']} {format_radius(found['eps'], found['norm'])}"


def _narrowing(content: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns how many images each norm saw and left, where images that have fallen leave."""
    (union,) = content["union"].values()
    seen = [
        min(entry["samples"] for entry in found["results"].values()) for found in content["norms"]
    ]
    left = [*seen[1:], round(union["accuracy"] * union["samples"] / 100)]
    return {
        "union": union,
        "steps": [
            {"name": name, "seen": before, "left": after}
            for name, before, after in zip(names, seen, left, strict=True)
        ],
    }


def _of_all_images(
    content: Mapping[str, Any], names: Sequence[str], norms: Sequence[Evaluation]
) -> dict[str, Any]:
    """Returns the table, its figure, which norm images fall to, and classes."""
    union = content["union"]
    columns = [found["results"] for found in content["norms"]] + [union]
    rows = [
        {"attack": attack, "cells": [results.get(attack) for results in columns]}
        for attack in union
    ]
    attack = strongest(union)
    found = [_read(name, each, attack) for name, each in zip(names, norms, strict=True)]
    class_names = [shown_text(name, 60) for name in norms[0].content.get("class_names") or []]
    return {
        "rows": rows,
        "figure": _bars(rows, [*names, "all norms"]),
        "attack": attack,
        "falls": _falls(found) if attack != "clean" else None,
        "classes": _by_class(found, class_names) if attack != "clean" else [],
    }


def _read(name: str, evaluation: Evaluation, attack: str) -> _UnderNorm:
    file = file_of_samples(evaluation)
    try:
        table = pq.read_table(file)
        table = table.filter(pc.is_valid(table[f"{attack}.correct"]))
        right = table[f"{attack}.correct"].to_numpy()
        # What no stage fooled but is not right was wrong without attack.
        fooled = pc.is_valid(table[f"{attack}.fooled_by"]).to_numpy()
        return _UnderNorm(name, table["label"].to_numpy(), right, right | fooled)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        words = f"{file} can't be read as outcomes of test images: {error}"
        raise UserError(shown_text(words)) from None


def _falls(found: Sequence[_UnderNorm]) -> dict[str, Any]:
    """Returns to which norms images fall that are right without attack, the most common first."""
    counted = np.logical_or.reduce([each.right_unattacked for each in found])
    patterns = Counter(zip(*(~each.right[counted] for each in found), strict=True))
    rows = [
        {
            "words": " and ".join(
                each.name for each, fell in zip(found, pattern, strict=True) if fell
            ),
            "images": images,
            "share": 100 * images / max(1, int(counted.sum())),
        }
        for pattern, images in sorted(patterns.items(), key=lambda item: (any(item[0]), -item[1]))
    ]
    return {"images": int(counted.sum()), "rows": rows}


def _by_class(found: Sequence[_UnderNorm], names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns accuracy by class without attack, under each norm and under all; worst first."""
    labels = found[0].labels
    columns = [
        np.logical_or.reduce([each.right_unattacked for each in found]),
        *(each.right for each in found),
        np.logical_and.reduce([each.right for each in found]),
    ]
    rows = [
        {
            "name": names[label] if label < len(names) else f"class {label}",
            "images": int((labels == label).sum()),
            "cells": [100 * float(column[labels == label].mean()) for column in columns],
        }
        for label in np.unique(labels).tolist()
    ]
    return sorted(rows, key=lambda row: float(row["cells"][-1]))


def _bars(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Returns accuracies with their intervals, a group of bars for each attack."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            known = [(x, row["cells"][place]) for x, row in enumerate(rows) if row["cells"][place]]
            heights = np.array([cell["accuracy"] for _, cell in known])
            errors = np.abs(np.array([cell["interval"] for _, cell in known]).T - heights)
            axes.bar(
                [x + width * (place - (len(names) - 1) / 2) for x, _ in known],
                heights,
                width * 0.92,
                yerr=errors,
                color=COLOURS[place],
                error_kw={"elinewidth": 1, "ecolor": NEUTRAL},
                label=drawn_name(name),
            )
        axes.set_xticks(range(len(rows)), [drawn_name(row["attack"]) for row in rows])
        axes.grid(False, axis="x")
        axes.set_ylabel("right, %", color=NEUTRAL)
        axes.set_ylim(0, 102)
        figure.legend(loc="outside lower left", ncols=4)

    return draw(10, 3.6, paint)
