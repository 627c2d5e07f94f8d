"""The trials as tables: `trials.parquet`, and text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dynat_ray.searching.distributions import Range
from dynat_ray.searching.study import Search
from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial, trial_folder
from dynat_ray.storage.atomic import atomic_write


def write_trials_table(file: Path, search: Search, trials: Sequence[Trial]) -> None:
    """Writes one row per trial: number, state, settings, accuracies in percent, folder."""
    columns: dict[str, pa.Array] = {
        "number": pa.array([trial.number for trial in trials], pa.int32()),
        "state": pa.array([trial.state for trial in trials], pa.string()),
        "error": pa.array([trial.error for trial in trials], pa.string()),
    }
    for key, distribution in search.space.searched.items():
        values = [trial.settings[key] for trial in trials]
        if isinstance(distribution, Range):
            # The default setting may have a fraction where only whole numbers are searched.
            whole = distribution.whole and all(v is None or isinstance(v, int) for v in values)
            columns[key] = pa.array(values, pa.int64() if whole else pa.float64())
        else:
            columns[key] = pa.array([None if v is None else str(v) for v in values], pa.string())
    columns["epochs"] = pa.array([trial.epochs for trial in trials], pa.int32())
    for name in ("epoch", "validation_clean_accuracy", "validation_robust_accuracy"):
        kind = pa.int32() if name == "epoch" else pa.float64()
        column = "best_epoch" if name == "epoch" else name
        columns[column] = pa.array([t.best and t.best[name] for t in trials], kind)
    attacks = dict.fromkeys(attack for trial in trials for attack in trial.validation)
    for attack in attacks:
        # The same split, but attacked once more in the end.
        entries = [trial.validation.get(attack) for trial in trials]
        columns[f"final_{attack}_accuracy"] = pa.array(
            [entry and entry["accuracy"] for entry in entries], pa.float64()
        )
    columns["seconds"] = pa.array([trial.seconds for trial in trials], pa.float64())
    folders = [trial_folder(file.parent, trial.number) for trial in trials]
    columns["folder"] = pa.array([str(f.relative_to(file.parent)) for f in folders], pa.string())
    with atomic_write(file) as partial:
        pq.write_table(pa.table(columns), partial)


def trials_text(trials: Sequence[Trial], epochs: int, width: int = 0) -> str:
    """Returns the trials as a text table: id, state, epoch, clean, robust, settings, error.

    What a narrow terminal cuts off are the settings, not how a trial does.

    Args:
        trials: By number.
        epochs: Of a whole trial.
        width: Longest line; 0: no bound.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    names = [key.rpartition(".")[2] for key in keys]
    rows = [["trial", "state", "epoch", "clean", "robust", *names, ""]]
    for trial in trials:
        best = trial.best
        rows.append(
            [
                f"{trial.number}{' *' * (trial.number == DEFAULT_TRIAL)}",
                trial.state,
                f"{trial.epochs}/{epochs}",
                f"{best['validation_clean_accuracy']:.1f}" if best else "",
                f"{best['validation_robust_accuracy']:.1f}" if best else "",
                *(show_value(trial.settings.get(key)) for key in keys),
                trial.error,
            ]
        )
    # The last column is not padded: an error may be long.
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    lines = [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
    return "\n".join(line[:width] if width else line for line in lines)


def show_value(value: Any) -> str:
    """Returns a setting's value in three digits."""
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)
