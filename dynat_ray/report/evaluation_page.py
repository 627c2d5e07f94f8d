"""`evaluation.html`: an evaluation on one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynat_ray.evaluation.examples import STEPS, Example
from dynat_ray.evaluation.request import IMAGES_OF
from dynat_ray.evaluation.results import beside
from dynat_ray.radius import format_radius
from dynat_ray.report.difference_rows import DifferenceRow
from dynat_ray.report.difference_section import difference_section
from dynat_ray.report.evaluation_differences import file_of_samples
from dynat_ray.report.evaluation_figures import (
    MOST_CLASSES,
    class_bars,
    confusion,
    distance_curve,
    eps_curve,
)
from dynat_ray.report.evaluation_text import probe_lines, second_stage_lines
from dynat_ray.report.fragile import picture
from dynat_ray.report.page import write_page
from dynat_ray.report.side_by_side import (
    Evaluation,
    curve_of,
    read_evaluation,
    side_by_side,
    side_by_side_figure,
    strongest,
)
from dynat_ray.report.text import interval_text, most_telling
from dynat_ray.shown_text import shown_text

_LONGEST_CLASS = 60
# Columns of per-sample values, one array each.
_Columns = dict[str, NDArray[Any]]


def write_evaluation_page(
    file: Path,
    examples: Sequence[Example],
    others: Sequence[Evaluation] = (),
    differences: Sequence[DifferenceRow] = (),
) -> Path:
    """Writes the page of an evaluation beside its JSON file.

    Args:
        file: The JSON file; the parquet file it names lies beside it.
        examples: Images with what an attack made of them.
        others: Evaluations to compare with.
        differences: Between this one and those.

    Returns:
        The page.

    Raises:
        UserError: The files can't be read, or the page can't be written.
    """
    evaluation = read_evaluation(file)
    content = _content(evaluation, examples)
    content["comparison"] = _comparison([evaluation, *others]) if others else None
    content["differences"] = difference_section(differences)
    return write_page(beside(file, ".html"), "evaluation.html", content)


def _content(evaluation: Evaluation, examples: Sequence[Example]) -> dict[str, Any]:
    content = evaluation.content
    points = evaluation.points
    shown = float(content.get("shown_eps", max(points)))
    attack = strongest(points[shown])
    names = content.get("class_names") or [f"class {k}" for k in range(content["classes"])]
    # Labels may have fewer classes than the model.
    names = [shown_text(name, _LONGEST_CLASS) for name in names]
    names = [*names, *(f"class {k}" for k in range(len(names), content["classes"]))]
    samples = pq.read_table(file_of_samples(evaluation)).to_pydict()
    columns = {name: np.array(values, dtype=object) for name, values in samples.items()}
    checks = content.get("checks", [])
    return {
        "name": evaluation.name,
        "facts": _facts(content),
        "images_of": IMAGES_OF[content.get("split", "test")],
        "attacks": list(dict.fromkeys(a for found in points.values() for a in found)),
        "rows": [
            {
                "eps": format_radius(eps, evaluation.norm),
                "cells": found,
            }
            for eps, found in points.items()
        ],
        "interval_text": interval_text,
        "after": points[shown].get(attack, {}).get("after", {}),
        "second_stage": _second_stage(evaluation),
        "notes": sorted(
            {e["note"] for found in points.values() for e in found.values() if "note" in e}
        ),
        "strongest": attack,
        "decided": most_telling(list(points[shown])) is not None,
        "shown": format_radius(shown, evaluation.norm),
        "norm": evaluation.norm,
        "flagged": [check for check in checks if check["flagged"]],
        "passed": [check for check in checks if not check["flagged"]],
        "curve": _curve(evaluation),
        "images_page": beside(evaluation.file, ".images.html").name
        if "images" in content
        else None,
        "by_class": _by_class(columns, shown, attack, names),
        "most_classes": MOST_CLASSES if len(names) > MOST_CLASSES else 0,
        "distances": _distances(evaluation, columns, shown),
        "corruptions": _corruptions(content.get("corruptions")),
        "examples": [_triple(example, names) for example in examples],
        "example_steps": STEPS,
    }


def _facts(content: dict[str, Any]) -> dict[str, str]:
    seconds = float(content["seconds"])
    samples = f"{content['samples']:,}"
    if content["costly_samples"] < content["samples"]:
        samples += f"; AutoAttack and its longer parts: {content['costly_samples']:,}"
    reference = content["eps_ref"]
    radius = {"eps_ref": f"{reference['eps']:.4g}, of {reference['model']}"} if reference else {}
    return {
        "data": content["data"],
        IMAGES_OF[content.get("split", "test")]: samples,
        "attacks": ", ".join(content["attacks"]),
        **radius,
        "seed": str(content["seed"]),
        "took": f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min",
        "model checksum": content["checksums"]["model"][:16],
        "data checksum": content["checksums"]["data"][:16],
    }


def _second_stage(evaluation: Evaluation) -> list[str]:
    lines = []
    for eps, entries in evaluation.points.items():
        radius = (
            f"eps {format_radius(eps, evaluation.norm)}, " if len(evaluation.points) > 1 else ""
        )
        lines += [f"{radius}{line}." for line in second_stage_lines(entries)]
    return lines


def _curve(evaluation: Evaluation) -> str | None:
    points = evaluation.points
    if len(points) < 2:
        return None
    attacks = [name for name in points[max(points)] if name != "clean"]
    series = {attack: curve_of(evaluation, attack) for attack in attacks}
    return eps_curve(series, evaluation.norm) if series else None


def _by_class(
    columns: _Columns, eps: float, attack: str, names: Sequence[str]
) -> dict[str, Any] | None:
    """Returns figures by class under the strongest attack, over the samples it saw."""
    at = columns["eps"].astype(float) == eps
    if attack == "clean":
        return None
    seen = at & np.array([value is not None for value in columns[f"{attack}.correct"]])
    labels = columns["label"][seen].astype(np.int64)
    right = columns[f"{attack}.correct"][seen].astype(bool)
    became = columns[f"{attack}.predicted"][seen].astype(np.int64)
    # What no stage fooled but is not right was wrong without attack.
    fooled = np.array([value is not None for value in columns[f"{attack}.fooled_by"][seen]])
    present = np.unique(labels)
    clean = [100 * float((right | fooled)[labels == each].mean()) for each in present]
    robust = [100 * float(right[labels == each].mean()) for each in present]
    counts = fooled & (became >= 0)
    return {
        "bars": class_bars([names[each] for each in present], clean, robust),
        "confusion": confusion(names, labels[counts], became[counts]) if counts.any() else None,
        "samples": int(seen.sum()),
        "fooled": int(fooled.sum()),
        "rows": [
            {
                "name": names[each],
                "images": int((labels == each).sum()),
                "clean": clean[place],
                "robust": robust[place],
            }
            for place, each in enumerate(present)
        ],
    }


def _distances(evaluation: Evaluation, columns: _Columns, eps: float) -> dict[str, Any] | None:
    if "distances" not in evaluation.content:
        return None
    figure = None
    if "fab.distance" in columns:
        values = columns["fab.distance"][columns["eps"].astype(float) == eps]
        known = np.array([value for value in values if value is not None], dtype=np.float64)
        figure = distance_curve(known, evaluation.norm, list(evaluation.points))
    found = evaluation.content["distances"]
    fab = found.get("fab", {})
    median = fab.get("median")
    tiles = {}
    if "deepfool" in found:
        deepfool = found["deepfool"]
        tiles["rho_2 (DeepFool, 5 steps), images in [0, 1]"] = f"{deepfool['rho_2']:.4f}"
        tiles["median L2 length of DeepFool's perturbation"] = f"{deepfool['median']:.3f}"
    if median is not None:
        tiles[f"median {evaluation.norm} distance (FAB), images right unattacked"] = format_radius(
            median, evaluation.norm
        )
    lines = probe_lines({"distances": found})
    return {"tiles": tiles, "lines": lines, "figure": figure}


def _corruptions(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    severities = sorted(
        {severity for row in found["accuracy"].values() for severity in row if severity != "mean"}
    )
    return {
        "mean": found["mean"],
        "samples": found["samples"],
        "source": found.get("source"),
        "severities": severities,
        "rows": [
            {
                "name": kind.replace("_", " "),
                "cells": [row.get(severity) for severity in severities],
                "mean": row["mean"],
            }
            for kind, row in found["accuracy"].items()
        ],
    }


def _comparison(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    columns, rows = side_by_side(evaluations)
    return {
        "columns": columns,
        "rows": rows,
        "figure": side_by_side_figure(evaluations),
    }


def _triple(example: Example, names: Sequence[str]) -> dict[str, Any]:
    change = example.adversarial - example.image
    largest = max(float(np.abs(change).max()), 1e-9)
    # Grey is no change; the largest one is black or white.
    pictures = (example.image, example.adversarial, 0.5 + 0.5 * change / largest)
    return {
        "index": example.index,
        "label": names[example.label],
        "predicted": names[example.predicted],
        "magnified": 0.5 / largest,
        "pictures": [
            picture((pixels * 255).round().clip(0, 255).astype(np.uint8)) for pixels in pictures
        ],
    }
