"""Tables for the terminal: the final accuracies of a run, and the trials of a search."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dynat_ray.searching.trial_records import DEFAULT_TRIAL, Trial
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.run_length import RunLength

MODELS = ("best", "last")
_LONGEST_CELL = 100
_LONGEST_VALUE = 40


def align_columns(rows: Sequence[Sequence[str]], *, markdown: bool = False) -> str:
    """Returns rows of text as lines in which columns stand below each other.

    Ours: `tabulate` would be one more dependency for these lines, and `rich` wraps what is wider
    than the terminal.

    Args:
        rows: Equally many cells each.
        markdown: As a Markdown table with the first row as its head.
    """
    rows = [[_cell(text, markdown) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[c.ljust(width) for c, width in zip(row, widths, strict=True)] for row in rows]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def attack_names(results: Mapping[str, Any]) -> list[str]:
    """Returns all attacks in `results.json`, in the order in which they were given."""
    return list(dict.fromkeys(name for model in MODELS for name in results.get(model, {})))


def most_telling(attacks: Sequence[str]) -> str | None:
    """Returns the attack that says most: AutoAttack, whole rather than sampled; None: not there."""
    found = [name for name in attacks if name.startswith("autoattack")]
    return min(found, key=lambda name: name == "autoattack-sampled", default=None)


def interval_text(entry: Mapping[str, Any]) -> str:
    """Returns an entry's 95 % interval, such as `63.9 to 73.5`, or nothing if it has none."""
    interval = entry.get("interval")
    return f"{interval[0]:.1f} to {interval[1]:.1f}" if interval else ""


def accuracy_text(entry: Mapping[str, Any] | None) -> str:
    """Returns an accuracy with its interval, such as `68.9 (63.9 to 73.5)`; `-` for none."""
    if entry is None:
        return "-"
    interval = interval_text(entry)
    return f"{entry['accuracy']:.1f}" + (f" ({interval})" if interval else "")


def value_text(value: Any) -> str:
    """Returns a setting's value, numbers in three digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else shown_text(str(value), _LONGEST_VALUE)


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
            rows.append([model, *(accuracy_text(entries.get(attack)) for attack in attacks)])
    for model in MODELS:
        if expected := expected_robustness(results, model):
            cells = [f"{expected[name]:.1f}" if name in expected else "" for name in attacks]
            rows.append([f"{model}, mean over eps", *cells])
    samples = [_samples(results, attack) for attack in attacks]
    rows.append(["test images", *(f"{count:,}" if count else "" for count in samples)])
    return f"test images still right, in percent (95 % interval)\n{align_columns(rows)}"


def expected_robustness(results: Mapping[str, Any], model: str) -> dict[str, float]:
    """Returns a model's mean accuracy over `eval.eps_curve` by attack; empty without a curve."""
    expected: dict[str, float] = (
        results.get("eps_curve", {}).get(model, {}).get("expected_robustness", {})
    )
    return expected


def trials_table(trials: Sequence[Trial], length: RunLength, width: int = 0) -> str:
    """Returns the trials of a search: number, state, how far, clean, robust, settings, error.

    What a narrow terminal cuts off are the settings, not how a trial does.

    Args:
        trials: By number.
        length: Of a whole trial.
        width: Longest line; 0: no bound.
    """
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    names = [key.rpartition(".")[2] for key in keys]
    rows = [
        ["trial", "state", "units" if length.by_compute else "epoch", "clean", "robust", *names, ""]
    ]
    for trial in trials:
        best = trial.best
        rows.append(
            [
                f"{trial.number}{' *' * (trial.number == DEFAULT_TRIAL)}",
                trial.state,
                length.fraction(trial.metrics[-1] if trial.metrics else None),
                f"{best['validation_clean_accuracy']:.1f}" if best else "",
                f"{best['validation_robust_accuracy']:.1f}" if best else "",
                *(value_text(trial.settings.get(key)) for key in keys),
                trial.error,
            ]
        )
    lines = align_columns(rows).splitlines()
    return "\n".join(line[:width] if width else line for line in lines)


def _cell(text: str, markdown: bool) -> str:
    shown = shown_text(text, _LONGEST_CELL)
    return markdown_text(shown) if markdown else shown


def markdown_text(text: str) -> str:
    """Returns text for a Markdown file, in which names of other people's making do nothing."""
    # Markdown takes a bar for the end of a cell, passes HTML on, and knows formulas.
    return re.sub(r"[|<&$`*\[\\]", _as_reference, text)


def _as_reference(found: re.Match[str]) -> str:
    return f"&#{ord(found[0])};"


def _samples(results: Mapping[str, Any], attack: str) -> int | None:
    for model in MODELS:
        if attack in results.get(model, {}):
            return int(results[model][attack]["samples"])
    return None
