"""A comparison of methods: one table and one figure over the run folders of several seeds."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dynat_ray.atomic_files import atomic_write_text, make_folder
from dynat_ray.errors import UserError
from dynat_ray.methods import standard_model_key
from dynat_ray.report.comparison_figure import clean_against_robust
from dynat_ray.report.comparison_rows import Row, Spread
from dynat_ray.report.difference_rows import differences_csv, differences_table
from dynat_ray.report.difference_section import difference_section
from dynat_ray.report.method_differences import measures_of, method_differences
from dynat_ray.report.page import write_page
from dynat_ray.report.reading import Run, read_run
from dynat_ray.report.text import (
    MODELS,
    align_columns,
    attack_names,
    markdown_text,
    most_telling,
)
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.run_length import RunLength

# Characters of a method's part of a folder's name, which most disks let have 255 bytes.
_LONGEST_FOLDER = 150


def run_folder(folder: Path, label: str, seed: int) -> Path:
    """Returns the folder of one run of a comparison; `label` is the method, maybe with settings."""
    name = re.sub(r"[^A-Za-z0-9_.=-]+", "-", label)
    if len(name) > _LONGEST_FOLDER:
        digest = hashlib.sha256(label.encode("utf-8", "backslashreplace")).hexdigest()
        name = f"{name[:_LONGEST_FOLDER]}-{digest[:12]}"
    return folder / "runs" / f"{name}-seed{seed}"


def write_comparison(
    folder: Path, seeds: Mapping[str, Sequence[int]], *, first: str | None = None
) -> str:
    """Writes `compare.csv`, `.md`, `.html`, `.svg` and `differences.csv` from runs that have ended.

    Args:
        folder: Of the comparison; runs are in its `runs/`.
        seeds: The runs that count: seeds by method, methods in the order of the table.
        first: The method that others are compared with; None: the first of the table.

    Returns:
        The Markdown table, and below it the differences.

    Raises:
        UserError: The files can't be written.
    """
    runs = {label: _ended_runs(folder, label, own) for label, own in seeds.items()}
    rows = [_row(label, model, found) for label, found in runs.items() if found for model in MODELS]
    attacks = list(dict.fromkeys(name for row in rows for name in row.accuracies))
    robust = _robust(attacks)
    differences = _differences(folder, runs, attacks, first or next(iter(seeds)))
    markdown = "\n".join([_markdown(rows, attacks), *_differences_markdown(differences)])
    figure = clean_against_robust(rows, robust) if robust and "clean" in attacks else None
    firsts = [found[0] for found in runs.values() if found]
    try:
        make_folder(folder)
        atomic_write_text(folder / "compare.csv", _csv(rows, attacks))
        atomic_write_text(folder / "compare.md", markdown + "\n")
        atomic_write_text(folder / "differences.csv", differences_csv(differences["rows"]))
        if figure:
            svg = base64.b64decode(figure.partition(",")[2]).decode()
            atomic_write_text(folder / "compare.svg", svg)
    except OSError as error:
        raise UserError(f"the comparison in {folder} can't be written: {error}") from error
    content = {
        "name": folder.name,
        "facts": _shared_facts(firsts),
        "attacks": attacks,
        "rows": rows,
        "figure": figure,
        "robust": robust,
        "length": str(RunLength.of(firsts[0].config.train)) if firsts else "",
        "chosen": any(run.config.data.val_fraction > 0 for run in firsts),
        "helped": [
            label
            for label, found in runs.items()
            if found and standard_model_key(found[0].config.method.name)
        ],
        "differences": differences,
        "missing": [label for label, found in runs.items() if not found],
    }
    write_page(folder / "compare.html", "comparison.html", content)
    return markdown


def _ended_runs(folder: Path, label: str, seeds: Sequence[int]) -> list[Run]:
    places = [run_folder(folder, label, seed) for seed in seeds]
    return [read_run(place) for place in places if read_json(place / "results.json")]


def _differences(
    folder: Path, runs: Mapping[str, Sequence[Run]], attacks: Sequence[str], first: str
) -> dict[str, Any]:
    """Returns the differences between methods as their part of the page shows them."""
    rows, notes = method_differences(
        partial(run_folder, folder),
        {label: [run.config.train.seed for run in found] for label, found in runs.items()},
        measures_of(attacks),
        first,
    )
    return difference_section(rows, notes)


def _differences_markdown(differences: Mapping[str, Any]) -> list[str]:
    """Returns the blocks below the table: sentences, differences, notes."""
    rows = differences["rows"]
    sentences = "\n".join(f"- {markdown_text(words)}" for words in differences["sentences"])
    table = differences_table(rows, markdown=True) if rows else ""
    notes = [f"{markdown_text(note)}." for note in differences["notes"]]
    return [f"\n{block}" for block in (sentences, table, *notes) if block]


def _robust(attacks: Sequence[str]) -> str:
    """Returns the attack that says most: AutoAttack, else the last; empty if there is none."""
    others = [name for name in attacks if name != "clean"]
    return most_telling(others) or ["", *others][-1]


def _row(label: str, model: str, runs: Sequence[Run]) -> Row:
    attacks = [name for name in attack_names(runs[0].results) if name in runs[0].results[model]]
    seconds = [sum(line["seconds"] for line in run.metrics) for run in runs]
    epochs = [run.metrics[-1]["epochs_done"] for run in runs]
    return Row(
        label=label,
        model=model,
        seeds=len(runs),
        accuracies={
            name: _spread(
                [run.results[model][name]["accuracy"] for run in runs if name in run.results[model]]
            )
            for name in attacks
        },
        epochs=_spread(epochs),
        units=_spread([run.metrics[-1]["forward_units"] for run in runs]),
        seconds=_spread(seconds),
        seconds_per_epoch=_spread([a / b for a, b in zip(seconds, epochs, strict=True)]),
        passes=_spread([_mean_metric(run, "passes_per_sample") for run in runs]),
    )


def _mean_metric(run: Run, name: str) -> float:
    return statistics.fmean(line[name] for line in run.metrics)


def _spread(values: Sequence[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation)


def _markdown(rows: Sequence[Row], attacks: Sequence[str]) -> str:
    heads = ["method", "model", *attacks, "epochs", "units", "seconds", "attack passes", "seeds"]
    lines = [
        [
            row.label,
            row.model,
            *(row.accuracies[name].text() if name in row.accuracies else "-" for name in attacks),
            row.epochs.text(),
            row.units.text(),
            row.seconds.text(),
            row.passes.text(),
            str(row.seeds),
        ]
        for row in rows
    ]
    return align_columns([heads, *lines], markdown=True)


def _csv(rows: Sequence[Row], attacks: Sequence[str]) -> str:
    costs = ("seconds_per_epoch", "attack_passes_per_sample", "epochs", "forward_units", "seconds")
    values = [*attacks, *costs]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["method", "model", "seeds", *(f"{v}_{kind}" for v in values for kind in ("mean", "sd"))]
    )
    for row in rows:
        spreads = [row.accuracies.get(name) for name in attacks]
        spreads += [row.seconds_per_epoch, row.passes, row.epochs, row.units, row.seconds]
        cells: list[Any] = []
        for spread in spreads:
            deviation = spread.deviation if spread else None
            cells.append(f"{spread.mean:.3f}" if spread else "")
            cells.append("" if deviation is None else f"{deviation:.3f}")
        writer.writerow([shown_text(row.label), row.model, row.seeds, *cells])
    return file.getvalue()


def _shared_facts(runs: Sequence[Run]) -> dict[str, str]:
    """Returns what holds for all of the runs, one of each method."""
    facts = [run.facts() for run in runs]
    return {
        name: words
        for name, words in (facts[0] if facts else {}).items()
        if name not in ("method", "seed") and all(each.get(name) == words for each in facts)
    }
