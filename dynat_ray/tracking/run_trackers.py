"""What trackers are told of a run, a search or a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dynat_ray.config import RunConfig
from dynat_ray.storage.run_folder import config_settings
from dynat_ray.tracking.feed import STATE, Trackers
from dynat_ray.tracking.tracker import Tracked

# What a run leaves that people want beside its metrics.
RUN_FILES = ("report.html", "results.json", "config.yaml", "environment.json", "model")
COMPARISON_FILES = ("compare.html", "compare.csv", "compare.md", "differences.csv")
SEARCH_FILES = ("report.html", "best.yaml", "trials.parquet")
# A run of a comparison, or a trial of a search, lies so many folders below it.
_LEVELS = 2


def run_trackers(config: RunConfig, folder: Path) -> Trackers:
    """Returns the trackers of a run.

    Args:
        config: The run.
        folder: Its folder; below that of a search or comparison it is a part of it.
    """
    above = list(folder.parents)[:_LEVELS]
    parent = next((each for each in above if (each / STATE).is_file()), None)
    return Trackers(config.train.trackers, Tracked(folder, "run", config_settings(config), parent))


def group_trackers(
    kind: Literal["search", "comparison"], config: RunConfig, folder: Path, more: Mapping[str, Any]
) -> Trackers:
    """Returns the trackers of a search or comparison; it is begun, so that its runs find it.

    Args:
        kind: Which.
        config: What its runs have in common.
        folder: Its folder.
        more: What else its parameters are.
    """
    parameters = config_settings(config) | dict(more)
    trackers = Trackers(config.train.trackers, Tracked(folder, kind, parameters))
    trackers.catch_up()
    return trackers


def final_values(results: Mapping[str, Any]) -> dict[str, float]:
    """Returns the final table of `results.json` as metrics, such as `best/autoattack`."""
    accuracies = {
        f"{model}/{attack}": float(entry["accuracy"])
        for model in ("best", "last")
        for attack, entry in results.get(model, {}).items()
    }
    return accuracies | {
        f"{model}/expected_{attack}": float(mean)
        for model, curve in results.get("eps_curve", {}).items()
        for attack, mean in curve["expected_robustness"].items()
    }
