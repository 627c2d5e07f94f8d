"""`metrics.jsonl`: a line for each epoch of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynat_ray.atomic_files import append_line, atomic_write
from dynat_ray.bounded_file import read_bounded
from dynat_ray.errors import UserError

# Bytes of all lines, of one or two thousand each.
_MOST = 2**28


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a `metrics.jsonl`; what follows one that was cut off is left out."""
    return [line for line, _ in _whole_lines(_content(file))]


def write_metrics(file: Path, line: dict[str, Any]) -> None:
    """Adds an epoch's line; lines of that epoch or later, from before a restart, go.

    The file grows by the line. Only where something has to go is it replaced, as a whole.
    """
    content = _content(file)
    kept = b"".join(
        raw + b"\n" for old, raw in _whole_lines(content) if old["epoch"] < line["epoch"]
    )
    added = json.dumps(line).encode()
    if kept == content and append_line(file, added):
        return
    with atomic_write(file) as partial:
        partial.write_bytes(kept + added + b"\n")


def _content(file: Path) -> bytes:
    try:
        return read_bounded(file, _MOST)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}; remove it") from None


def _whole_lines(content: bytes) -> list[tuple[dict[str, Any], bytes]]:
    """Returns lines, each also as it stands there, up to the first that is none of ours."""
    lines = []
    for raw in content.split(b"\n"):
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
            break
        lines.append((line, raw))
    return lines
