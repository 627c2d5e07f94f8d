"""The files that an evaluation leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dynat_ray.atomic_files import atomic_write, make_folder
from dynat_ray.attacks.registry import MARGIN
from dynat_ray.errors import UserError
from dynat_ray.evaluation.outcomes import AttackOutcomes, Outcome
from dynat_ray.evaluation.request import DEFAULT_NAME

# In a run's folder: of every test image, and of held-out images that a search judged it on.
OUTCOMES, VALIDATION_OUTCOMES = "outcomes.parquet", "validation.parquet"


def results_of(outcomes: AttackOutcomes) -> dict[str, Any]:
    """Returns `{"results": ...}` for one eps, `{"curve": [...]}` for several, JSON values."""
    curve = [
        {"eps": threat.eps, "results": {name: outcome.entry() for name, outcome in found.items()}}
        for threat, found in outcomes.items()
    ]
    return {"results": curve[0]["results"]} if len(curve) == 1 else {"curve": curve}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file as a whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8 as a whole or not at all."""
    with _replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


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
    measure of distances, `margin.value` (of `CleanMargin`), and `CORRUPTION.predicted` and
    `CORRUPTION.correct`.
    """
    tables = []
    for threat, found in outcomes.items():
        columns: dict[str, pa.Array] = {
            "eps": pa.array(np.full(len(indices), threat.eps)),
            "index": pa.array(indices),
            "label": pa.array(labels),
        }
        columns |= _attack_columns(found.values(), len(indices))
        for outcome in probed.values():
            if outcome.distances is not None:
                # A margin is no distance.
                column = "value" if outcome.attack == MARGIN.name else "distance"
                measured = (outcome.distances, pa.float64())
                columns |= _columns(outcome, len(indices), **{column: measured})
                continue
            columns |= _columns(
                outcome,
                len(indices),
                predicted=(outcome.predicted, pa.int64()),
                correct=(outcome.correct, pa.bool_()),
            )
        tables.append(pa.table(columns))
    _write_tables(path, tables)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a table as parquet."""
    _write_tables(path, [table])


def write_run_samples(
    path: Path,
    outcomes: Mapping[str, Mapping[str, Outcome]],
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> None:
    """Writes what became of every sample under a run's models, a row for each sample and model.

    Columns: `model`, `index`, `label`, and the attacks' as in `write_samples`.

    Args:
        path: The parquet file.
        outcomes: By model, such as `best`, and attack.
        indices: Places of the samples in their split, `(N,)`.
        labels: Their classes, `(N,)`.
    """
    tables = []
    for model, found in outcomes.items():
        columns = {
            "model": pa.array([model] * len(indices)),
            "index": pa.array(indices),
            "label": pa.array(labels),
        }
        tables.append(pa.table(columns | _attack_columns(found.values(), len(indices))))
    _write_tables(path, tables)


def _write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    with _replacing(path) as partial:
        # At eps 0 nothing has a second stage.
        pq.write_table(pa.concat_tables(tables, promote_options="default"), partial)


def _attack_columns(outcomes: Iterable[Outcome], samples: int) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    for outcome in outcomes:
        stages = [outcome.stages[place] if place >= 0 else None for place in outcome.fooled_by]
        columns |= _columns(
            outcome,
            samples,
            predicted=(outcome.predicted, pa.int64()),
            correct=(outcome.correct, pa.bool_()),
            fooled_by=(stages, pa.string()),
        )
        if outcome.second_stage is not None:
            columns |= _columns(
                outcome,
                samples,
                stratum=(outcome.second_stage.stratum, pa.int8()),
                tried=(outcome.second_stage.tried, pa.bool_()),
            )
    return columns


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


def named_after(out: Path, name: str) -> Path:
    """Returns where a file such as `robustbench.json` of an evaluation goes: beside its JSON file.

    Another `--out` than the default is put before the name.
    """
    return out.with_name(name) if out.name == DEFAULT_NAME else beside(out, f".{name}")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Gives a file to write, which takes the place of `path`; `UserError` if it can't be."""
    try:
        make_folder(path.parent)
        with atomic_write(path) as partial:
            yield partial
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None
