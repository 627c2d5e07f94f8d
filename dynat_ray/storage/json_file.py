"""JSON files that hold one object, as runs and commands leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynat_ray.bounded_file import read_bounded


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object that a file holds; empty if there is none that can be read.

    To whoever reads a run, a file that was cut says as little as one that was never written.
    """
    try:
        content = json.loads(read_bounded(file))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
