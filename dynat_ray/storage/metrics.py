"""`metrics.jsonl`: a line for each epoch of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynat_ray.storage.atomic import atomic_write_text


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a `metrics.jsonl`; a last line that was cut off is left out."""
    lines = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def write_metrics(file: Path, line: dict[str, Any]) -> None:
    """Adds an epoch's line; lines of that epoch or later, from before a restart, go."""
    lines = [old for old in read_metrics(file) if old["epoch"] < line["epoch"]]
    text = "".join(json.dumps(each) + "\n" for each in [*lines, line])
    atomic_write_text(file, text)
