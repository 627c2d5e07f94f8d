"""The trials as a table: `trials.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from optuna.distributions import CategoricalDistribution, IntDistribution

from dynat_ray.atomic_files import atomic_write
from dynat_ray.searching.study import Search
from dynat_ray.searching.trial_records import Trial, trial_folder


def write_trials_table(file: Path, search: Search, trials: Sequence[Trial]) -> None:
    """Writes one row per trial: number, state, settings, accuracies in percent, folder."""
    columns: dict[str, pa.Array] = {
        "number": pa.array([trial.number for trial in trials], pa.int32()),
        "state": pa.array([trial.state for trial in trials], pa.string()),
        "error": pa.array([trial.error for trial in trials], pa.string()),
    }
    for key, distribution in search.space.searched.items():
        values = [trial.settings[key] for trial in trials]
        if isinstance(distribution, CategoricalDistribution):
            columns[key] = pa.array([None if v is None else str(v) for v in values], pa.string())
            continue
        # The default setting may have a fraction where only whole numbers are searched.
        whole = isinstance(distribution, IntDistribution) and all(
            value is None or isinstance(value, int) for value in values
        )
        columns[key] = pa.array(values, pa.int64() if whole else pa.float64())
    columns["epochs"] = pa.array([trial.epochs for trial in trials], pa.int32())
    units = [trial.metrics[-1]["forward_units"] if trial.metrics else 0.0 for trial in trials]
    columns["forward_units"] = pa.array(units, pa.float64())
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
