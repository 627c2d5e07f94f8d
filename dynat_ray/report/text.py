"""The final table: accuracies on the test split with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODELS = ("best", "last")


def attack_names(results: Mapping[str, Any]) -> list[str]:
    """Returns all attacks in `results.json`, in the order in which they were given."""
    return list(dict.fromkeys(name for model in MODELS for name in results.get(model, {})))


def interval_text(entry: Mapping[str, Any]) -> str:
    """Returns an entry's 95 % interval, such as `63.9 to 73.5`, or nothing if it has none."""
    interval = entry.get("interval")
    return f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""


def final_table(results: Mapping[str, Any]) -> str:
    """Returns the final table for the terminal.

    Args:
        results: Content of `results.json`.

    Returns:
        A row for each model (best, last), a column for each attack, the number of test images
        below; several lines without a line break at the end.
    """
    attacks = attack_names(results)
    rows = [["", *attacks]]
    for model in MODELS:
        entries = results.get(model)
        if entries:
            rows.append([model, *(_cell(entries.get(attack)) for attack in attacks)])
    samples = [_samples(results, attack) for attack in attacks]
    rows.append(["test images", *(f"{count:,}" if count else "" for count in samples)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(["test images still right, in percent (95 % interval)", *lines])


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    interval = interval_text(entry)
    return f"{entry['accuracy']:.1f}" + (f" ({interval})" if interval else "")


def _samples(results: Mapping[str, Any], attack: str) -> int | None:
    for model in MODELS:
        if attack in results.get(model, {}):
            return int(results[model][attack]["samples"])
    return None
