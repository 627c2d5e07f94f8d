"""The files and the table an evaluation leaves behind."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynat_ray.config import Norm
from dynat_ray.errors import UserError
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.request import DEFAULT_NAME
from dynat_ray.radius import format_radius

# For each eps an outcome for each attack.
Outcomes = Mapping[float, Mapping[str, Outcome]]


def results_of(outcomes: Outcomes) -> dict[str, Any]:
    """Returns `{"results": ...}` for one eps, `{"curve": [...]}` for several, JSON values."""
    curve = [
        {"eps": eps, "results": {name: outcome.entry() for name, outcome in found.items()}}
        for eps, found in outcomes.items()
    ]
    return {"results": curve[0]["results"]} if len(curve) == 1 else {"curve": curve}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file as a whole or not at all."""
    _replace(path, lambda target: target.write_text(json.dumps(content, indent=2) + "\n"))


def write_samples(
    path: Path,
    outcomes: Outcomes,
    probed: Mapping[str, Outcome],
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> None:
    """Writes what became of every sample as parquet, a row for each sample and eps.

    Columns: `eps`, `index` (in the test split), `label`, and for each attack `ATTACK.predicted`
    (class after the attack, -1: logits not finite), `ATTACK.correct` and `ATTACK.fooled_by` (the
    stage that fooled it, null where it is right or was wrong without attack). Null where an
    attack did not see the sample. Then, whatever the eps, `PROBE.distance` for each measure of
    distances, and `CORRUPTION.predicted` and `CORRUPTION.correct`.
    """
    tables = []
    for eps, found in outcomes.items():
        columns: dict[str, pa.Array] = {
            "eps": pa.array(np.full(len(indices), eps)),
            "index": pa.array(indices),
            "label": pa.array(labels),
        }
        for outcome in found.values():
            stages = [outcome.stages[place] if place >= 0 else None for place in outcome.fooled_by]
            columns |= _columns(
                outcome,
                len(indices),
                predicted=(outcome.predicted, pa.int64()),
                correct=(outcome.correct, pa.bool_()),
                fooled_by=(stages, pa.string()),
            )
        for outcome in probed.values():
            if outcome.distances is not None:
                columns |= _columns(
                    outcome, len(indices), distance=(outcome.distances, pa.float64())
                )
                continue
            columns |= _columns(
                outcome,
                len(indices),
                predicted=(outcome.predicted, pa.int64()),
                correct=(outcome.correct, pa.bool_()),
            )
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables)
    _replace(path, lambda target: pq.write_table(table, target))


def _columns(outcome: Outcome, samples: int, **values: Any) -> dict[str, pa.Array]:
    columns = {}
    for column, (found, kind) in values.items():
        full: list[Any] = [None] * samples
        for position, value in zip(outcome.positions, found, strict=True):
            full[position] = value
        columns[f"{outcome.attack}.{column}"] = pa.array(full, type=kind)
    return columns


def beside(out: Path, ending: str) -> Path:
    """Returns another file of the evaluation, such as `a.parquet` beside the JSON file `a.json`."""
    return out.with_name(out.name.removesuffix(".json") + ending)


def robustbench_path(out: Path) -> Path:
    """Returns where the RobustBench entry of an evaluation goes: beside its JSON file."""
    if out.name == DEFAULT_NAME:
        return out.with_name("robustbench.json")
    return beside(out, ".robustbench.json")


def table_of(outcomes: Outcomes, norm: Norm) -> str:
    """Returns a plain-text table: a row for each attack, a block for each eps."""
    lines = []
    for eps, found in outcomes.items():
        lines.append(f"eps {format_radius(eps, norm)}")
        lines.append(f"  {'attack':<18}{'accuracy %':>10}  {'95 % interval':>15}  {'samples':>8}")
        for name, outcome in found.items():
            low, high = outcome.interval
            interval = f"{low:.1f} to {high:.1f}"
            lines.append(
                f"  {name:<18}{outcome.accuracy:>10.2f}  {interval:>15}  {outcome.samples:>8}"
            )
    notes = {o.note for found in outcomes.values() for o in found.values() if o.note}
    return "\n".join([*lines, *(f"  note: {note}" for note in sorted(notes))])


def _replace(path: Path, write: Any) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
