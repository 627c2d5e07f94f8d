"""The files that an evaluation leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynat_ray.atomic_files import atomic_write, make_folder
from dynat_ray.errors import UserError
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.request import DEFAULT_NAME


def results_of(outcomes: AttackOutcomes) -> dict[str, Any]:
    """Returns `{"results": ...}` for one eps, `{"curve": [...]}` for several, JSON values."""
    curve = [
        {"eps": threat.eps, "results": {name: outcome.entry() for name, outcome in found.items()}}
        for threat, found in outcomes.items()
    ]
    return {"results": curve[0]["results"]} if len(curve) == 1 else {"curve": curve}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file as a whole or not at all."""
    with _replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def write_samples(
    path: Path,
    outcomes: AttackOutcomes,
    probed: Mapping[str, Outcome],
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> None:
    """Writes what became of every sample as parquet, a row for each sample and eps.

    Columns: `eps`, `index` (in the test split), `label`, and for each attack `ATTACK.predicted`
    (class after the attack, -1: logits not finite), `ATTACK.correct` and `ATTACK.fooled_by` (the
    stage that fooled it, null where it is right or was wrong without attack). Null where an
    attack did not see the sample. `ATTACK.stratum` and `ATTACK.tried` are those of `SecondStage`,
    for attacks whose last stages saw a sample. Then, whatever the eps, `PROBE.distance` for each
    measure of distances, and `CORRUPTION.predicted` and `CORRUPTION.correct`.
    """
    tables = []
    for threat, found in outcomes.items():
        columns: dict[str, pa.Array] = {
            "eps": pa.array(np.full(len(indices), threat.eps)),
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
            if outcome.second_stage is not None:
                columns |= _columns(
                    outcome,
                    len(indices),
                    stratum=(outcome.second_stage.stratum, pa.int8()),
                    tried=(outcome.second_stage.tried, pa.bool_()),
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
    with _replacing(path) as partial:
        # At eps 0 nothing has a second stage.
        pq.write_table(pa.concat_tables(tables, promote_options="default"), partial)


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


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Gives a file to write, which takes the place of `path`; `UserError` if it can't be."""
    try:
        make_folder(path.parent)
        with atomic_write(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None
