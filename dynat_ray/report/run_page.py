"""`report.html`: a run on one page that needs nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dynat_ray.radius import format_radius
from dynat_ray.report.epoch_figures import learning_curves, speed_curves
from dynat_ray.report.evaluation_figures import eps_curve
from dynat_ray.report.evaluation_text import second_stage_lines
from dynat_ray.report.fragile import FOLDER, find_fragile
from dynat_ray.report.page import write_page
from dynat_ray.report.reading import Columns, Run, read_run
from dynat_ray.report.sample_figures import budgets_and_steps, confidence_gaps, gap_figure
from dynat_ray.report.text import (
    MODELS,
    attack_names,
    expected_robustness,
    interval_text,
    most_telling,
)
from dynat_ray.storage.run_length import RunLength

# Points by which PGD may lie above AutoAttack before the page says so loudly: PGD-AT and TRADES
# show 3 to 5 on CIFAR-10, published models that mask gradients 10 to 40.
_SUSPICIOUS_POINTS = 6.0


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run folder, and the pictures of its most fragile images.

    Args:
        run_dir: A run's folder; the run may be unfinished, and its data set gone.

    Returns:
        The file.

    Raises:
        UserError: The folder is not a run's, or can't be written.
    """
    run = read_run(run_dir)
    return write_page(run_dir / "report.html", "run.html", _content(run))


def _content(run: Run) -> dict[str, Any]:
    epoch, samples = run.last_samples()
    gaps = confidence_gaps(samples)
    return {
        "name": run.folder.resolve().name,
        "facts": run.facts(),
        "started": run.environment.get("started", "")[:16].replace("T", " "),
        "unfinished": _unfinished(run),
        "settings": asdict(run.config),
        "environment": _environment(run),
        "table": _table(run.results),
        "chosen": run.config.data.val_fraction > 0,
        "eps_curve": _eps_curve(run),
        "comparison": _pgd_against_autoattack(run.results),
        "curves": learning_curves(run) if run.metrics else None,
        "budgets": budgets_and_steps(run),
        "spread": _spread(run, samples),
        "gaps": gap_figure(gaps) if gaps else None,
        "shares": gaps.shares() if gaps else {},
        "samples_epoch": epoch + 1,
        "fragile": _fragile(run, samples),
        "fragile_folder": FOLDER,
        "speed": _speed(run),
        "speed_curves": speed_curves(run) if run.metrics else None,
    }


def _unfinished(run: Run) -> str:
    """Returns what part of a run is done that is not finished; empty if it is."""
    length = RunLength.of(run.config.train)
    spent = length.spent(run.metrics[-1]) if run.metrics else 0.0
    return "" if length.is_reached(spent) else f"{spent:.6g} of {length} are done"


def _table(results: Mapping[str, Any]) -> dict[str, Any] | None:
    attacks = attack_names(results)
    if not attacks:
        return None
    rows = [
        {
            "model": model,
            "cells": [
                entry | {"interval": interval_text(entry)}
                if (entry := results[model].get(attack))
                else None
                for attack in attacks
            ],
        }
        for model in MODELS
        if results.get(model)
    ]
    first = results.get("best") or results["last"]
    return {
        "attacks": attacks,
        "rows": rows,
        "best_epoch": results["best_epoch"] + 1 if "best_epoch" in results else None,
        "after": {name: entry["after"] for name, entry in first.items() if entry.get("after")},
        "second_stage": second_stage_lines(first),
        "notes": sorted({entry["note"] for entry in first.values() if entry.get("note")}),
    }


def _eps_curve(run: Run) -> dict[str, Any] | None:
    """Returns the best model's accuracies over `eval.eps_curve`; None without a curve."""
    points = run.results.get("eps_curve", {}).get("best", {}).get("curve", [])
    if not points:
        return None
    norm = run.config.threat.norm
    attacks = [name for name in points[0]["results"] if name != "clean"]
    series = {
        name: [
            (point["eps"], entry["accuracy"], entry["interval"])
            for point in points
            if (entry := point["results"].get(name))
        ]
        for name in attacks
    }
    return (
        {
            "figure": eps_curve(series, norm),
            "radii": ", ".join(format_radius(point["eps"], norm) for point in points),
            "expected": {
                model: expected
                for model in MODELS
                if (expected := expected_robustness(run.results, model))
            },
            "attacks": attacks,
        }
        if attacks
        else None
    )


def _pgd_against_autoattack(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns by how many points PGD is above AutoAttack for the best model, if both were run."""
    entries = results.get("best") or results.get("last") or {}
    autoattack = most_telling(list(entries))
    pgd = next((name for name in entries if name.startswith("pgd")), None)
    found: dict[str, Any] = {
        "autoattack": autoattack,
        "pgd": pgd,
        "points": None,
        "suspicious": False,
    }
    if autoattack and pgd:
        # AutoAttack may have seen a part of the images, which need not be like the whole.
        same = entries[autoattack].get("same_samples", {})
        points = same.get(pgd, entries[pgd]["accuracy"]) - entries[autoattack]["accuracy"]
        found |= {"points": points, "suspicious": points > _SUSPICIOUS_POINTS}
    return found


def _spread(run: Run, samples: Columns) -> dict[str, str] | None:
    """Returns the last epoch's budgets in words: mean, and the range of the middle 90 %."""
    if "eps" not in samples:
        return None
    norm = run.config.threat.norm
    low, high = np.quantile(samples["eps"], [0.05, 0.95])
    return {
        "mean": format_radius(float(samples["eps"].mean()), norm),
        "low": format_radius(float(low), norm),
        "high": format_radius(float(high), norm),
        "steps": f"{samples['attack_steps'].mean():.1f}" if "attack_steps" in samples else "",
    }


def _fragile(run: Run, samples: Columns) -> dict[str, Any]:
    images, words = find_fragile(run, samples)
    norm = run.config.threat.norm
    return {
        "ranked_by": words,
        "pictured": any(image.picture for image in images),
        "images": [
            {
                "index": image.index,
                "picture": image.picture,
                "label": run.class_name(image.label),
                "predicted": "" if image.predicted is None else run.class_name(image.predicted),
                "wrong": image.predicted is not None and image.predicted != image.label,
                "budget": "" if image.budget is None else format_radius(image.budget, norm),
            }
            for image in images
        ],
    }


def _speed(run: Run) -> dict[str, str]:
    if not run.metrics:
        return {}
    seconds = sum(line["seconds"] for line in run.metrics)
    images = sum(line["seconds"] * line["images_per_second"] for line in run.metrics)
    passes = float(np.mean([line["passes_per_sample"] for line in run.metrics]))
    waited = sum(line["loader_seconds"] for line in run.metrics)
    most_steps = run.config.method.most_steps(run.config.attack.steps)
    memory = max(line["peak_memory_bytes"] for line in run.metrics)
    return {
        "training": f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min",
        "images per second": f"{images / max(seconds, 1e-9):,.0f}",
        "seconds per epoch": f"{seconds / run.metrics[-1]['epochs_done']:,.1f}",
        "units of compute per image": f"{run.metrics[-1]['forward_units']:,.1f}",
        "waiting for images": f"{100 * waited / max(seconds, 1e-9):.1f} %",
        "attack passes per image": f"{passes:.2f} of {most_steps}",
        "peak memory per worker": f"{memory / 2**30:.2f} GiB",
    }


def _environment(run: Run) -> dict[str, str]:
    def as_text(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {as_text(each)}" for name, each in value.items())
        return value if isinstance(value, str) else json.dumps(value)

    return {name: as_text(value) for name, value in run.environment.items()}
