"""What lies in a folder of runs: a table for the terminal and a page that links the reports."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.report.page import write_page
from dynat_ray.report.text import accuracy_text, align_columns, most_telling
from dynat_ray.searching.trial_records import read_trials
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.storage.run_length import RunLength

# A run whose files have not changed for so long, and not for three of its epochs, has stopped.
_QUIET_SECONDS = 600.0
_QUIET_EPOCHS = 3
_COLUMNS = ("name", "kind", "method", "data", "epochs", "clean", "AutoAttack", "time", "state")


@dataclass(frozen=True)
class Row:
    """A run, search or comparison.

    Attributes:
        cells: Texts, in the order of the table's columns.
        report: Where its report is, as a link from the folder; empty: nowhere yet.
    """

    cells: tuple[str, ...]
    report: str = ""


def read_rows(folder: Path, *, live: bool = True) -> list[Row]:
    """Returns a row for each run, search and comparison directly in a folder, by name.

    Args:
        folder: To look into.
        live: Times of files are those of whoever wrote them, so that they tell whether a run goes
            on; copies' are not.
    """
    rows = []
    for each in sorted(folder.iterdir()):
        if (each / "config.yaml").is_file():
            cells = _run_cells(each, live)
        elif (each / "search.yaml").is_file():
            trials = read_trials(each)
            done = sum(trial.state == "finished" for trial in trials)
            state = f"{done} of {len(trials)} trials finished"
            cells = (each.name, "search", "", "", "", "", "", "", state)
        elif (each / "compare.yaml").is_file():
            whole = (each / "compare.csv").is_file()
            state = "has a table" if whole else "has no table yet"
            cells = (each.name, "comparison", "", "", "", "", "", "", state)
        else:
            continue
        report = f"{quote(each.name)}/report.html" if (each / "report.html").is_file() else ""
        rows.append(Row(cells, report))
    return rows


def runs_table(rows: Sequence[Row]) -> str:
    """Returns the rows for the terminal, under a line of titles."""
    return align_columns([list(_COLUMNS), *(list(row.cells) for row in rows)])


def write_index(folder: Path, rows: Sequence[Row]) -> Path:
    """Writes `index.html`, whose names lead to the reports; returns it."""
    content = {
        "name": folder.name,
        "facts": {"folder": str(folder), "written": time.strftime("%Y-%m-%d %H:%M:%S")},
        "columns": _COLUMNS,
        "rows": rows,
    }
    return write_page(folder / "index.html", "runs.html", content)


def _run_cells(folder: Path, live: bool) -> tuple[str, ...]:
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
        "finished" if best else _state(folder, lines, epochs, live),
    )


def _state(folder: Path, lines: Sequence[Mapping[str, Any]], epochs: str, live: bool) -> str:
    if not live:
        return f"not finished, at {epochs}"
    files = [each for each in folder.iterdir() if each.is_file()]
    quiet = time.time() - max(each.stat().st_mtime for each in files)
    epoch = float(lines[-1].get("seconds", 0.0)) if lines else 0.0
    running = quiet < max(_QUIET_SECONDS, _QUIET_EPOCHS * epoch)
    return "running" if running else f"stopped at {epochs}"


def _data_name(config: RunConfig) -> str:
    try:
        return load_info(config.data.path).name
    except UserError:
        return Path(config.data.path).name or config.data.source


def _time_text(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"
