"""The part of a page that shows differences: what `differences.html` takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynat_ray.report.difference_figure import difference_figure
from dynat_ray.report.difference_rows import DifferenceRow, difference_sentences


def difference_section(rows: Sequence[DifferenceRow], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns what the template shows: sentences, figure, rows, notes.

    Args:
        rows: Of all pairs and measures.
        notes: Sentences, without a full stop, about what was not compared.
    """
    return {
        "rows": rows,
        "notes": notes,
        "sentences": difference_sentences(rows),
        "figure": difference_figure(rows) if rows else None,
    }
