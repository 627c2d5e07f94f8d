"""What lies in a folder of runs: a table for the terminal and a page that links the reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.report.page import write_page
from dynat_ray.report.text import accuracy_text, align_columns, most_telling
from dynat_ray.searching.trial_records import Trial, read_trials, trial_folder
from dynat_ray.storage.failure import read_failure
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.owners import work_on
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.storage.run_length import RunLength

# Before the name of what is part of something above it.
_INNER = "└ "
_COLUMNS = ("name", "kind", "method", "data", "epochs", "clean", "AutoAttack", "time", "state")


@dataclass(frozen=True)
class Row:
    """A run, search or comparison.

    Attributes:
        cells: Texts, in the order of the table's columns.
        report: Where its report is, as a link from the folder; empty: nowhere yet.
        inner: It is a part of the search or comparison above it.
    """

    cells: tuple[str, ...]
    report: str = ""
    inner: bool = False


def read_rows(folder: Path) -> list[Row]:
    """Returns a row for each run, search and comparison in a folder, by name, with their runs."""
    rows = []
    for each in sorted(folder.iterdir()):
        if (each / "config.yaml").is_file():
            rows.append(_run_row(folder, each))
        elif (each / "search.yaml").is_file():
            rows += _search_rows(folder, each)
        elif (each / "compare.yaml").is_file():
            state = "has a table" if (each / "compare.csv").is_file() else "has no table yet"
            rows.append(_group_row(each, "comparison", state, "compare.html"))
            runs = sorted((each / "runs").glob("*/config.yaml"))
            rows += [_run_row(folder, own.parent) for own in runs]
    return rows


def _search_rows(place: Path, folder: Path) -> list[Row]:
    trials = read_trials(folder)
    done = sum(trial.state == "finished" for trial in trials)
    state = f"{done} of {len(trials)} trials finished"
    rows = [_group_row(folder, "search", state, "report.html")]
    for trial in trials:
        own = trial_folder(folder, trial.number)
        if (own / "config.yaml").is_file():
            rows.append(_run_row(place, own, trial))
    return rows


def _group_row(folder: Path, kind: str, state: str, page: str) -> Row:
    if work := work_on(folder):
        state = f"{work}, {state}"
    link = f"{quote(folder.name)}/{page}" if (folder / page).is_file() else ""
    return Row((folder.name, kind, *("",) * 6, state), link)


def _run_row(place: Path, folder: Path, trial: Trial | None = None) -> Row:
    """Returns the row of a run, which lies in the `place` or in a search or comparison there."""
    path = folder.relative_to(place).as_posix()
    link = f"{quote(path)}/report.html" if (folder / "report.html").is_file() else ""
    return Row(_run_cells(folder, trial), link, inner=folder.parent != place)


def runs_table(rows: Sequence[Row]) -> str:
    """Returns the rows for the terminal, under a line of titles."""
    shown = [[f"{_INNER * row.inner}{row.cells[0]}", *row.cells[1:]] for row in rows]
    return align_columns([list(_COLUMNS), *shown])


def write_index(folder: Path, rows: Sequence[Row]) -> Path:
    """Writes `index.html`, whose names lead to the reports; returns it."""
    content = {
        "name": folder.name,
        "facts": {"folder": str(folder), "written": time.strftime("%Y-%m-%d %H:%M:%S")},
        "columns": _COLUMNS,
        "rows": rows,
    }
    return write_page(folder / "index.html", "runs.html", content)


def _run_cells(folder: Path, trial: Trial | None) -> tuple[str, ...]:
    try:
        config, lines = read_run_config(folder), read_metrics(folder / "metrics.jsonl")
    except UserError as error:
        return (folder.name, "run", "", "", "", "", "", "", f"can't be read: {error}")
    results = read_json(folder / "results.json")
    best: Mapping[str, Any] = results.get("best", {})
    attack = most_telling(list(best))
    seconds = results.get("seconds") or sum(line.get("seconds", 0.0) for line in lines)
    length = RunLength.of(config.train)
    epochs = length.fraction(lines[-1] if lines else None)
    return (
        folder.name,
        "run",
        config.method.name,
        _data_name(config),
        f"{epochs} units" if length.by_compute else epochs,
        accuracy_text(best.get("clean")),
        accuracy_text(best[attack]) if attack else "-",
        _time_text(seconds),
        "finished" if best else _state(folder, epochs, trial),
    )


def _state(folder: Path, epochs: str, trial: Trial | None) -> str:
    """Returns what became of a run without results: few trials are measured on the test split."""
    if work := work_on(folder):
        return work
    if trial is not None and trial.state == "finished":
        return "finished"
    if trial is not None and trial.state == "stopped":
        return f"stopped early at {epochs}"
    failure = trial.error if trial is not None else read_failure(folder)
    return f"failed at {epochs}: {failure}" if failure else f"stopped at {epochs}"


def _data_name(config: RunConfig) -> str:
    place = config.data.path
    # A page about many runs does not wait for a store.
    if "://" not in place:
        with suppress(UserError):
            return load_info(place).name
    return Path(place).name or config.data.source


def _time_text(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"
