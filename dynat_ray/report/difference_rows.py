"""Differences between methods or models as files, tables and sentences say them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynat_ray.evaluation.differences import Difference
from dynat_ray.report.text import align_columns
from dynat_ray.shown_text import shown_text

_HEADS = ("a", "b", "measure", "difference", "low", "high", "seeds", "images")
# As papers write them.
_WRITTEN = {"autoattack": "AutoAttack", "cw": "CW"}


@dataclass(frozen=True)
class DifferenceRow:
    """How one method or model does against another under one measure.

    Attributes:
        a: The first.
        b: The other.
        measure: Name of an attack, or `clean`.
        difference: Accuracy of the first minus that of the other.
    """

    a: str
    b: str
    measure: str
    difference: Difference

    def cells(self) -> dict[str, Any]:
        """Returns the row of `differences.csv`, JSON values by column."""
        found = self.difference
        numbers = (round(each, 3) for each in (found.points, found.low, found.high))
        values = (shown_text(self.a), shown_text(self.b), self.measure, *numbers)
        return dict(zip(_HEADS, (*values, found.seeds, found.images), strict=True))

    def interval_text(self) -> str:
        """Returns such as `-0.4 to +1.2`."""
        return f"{self.difference.low:+.1f} to {self.difference.high:+.1f}"


def differences_csv(rows: Sequence[DifferenceRow]) -> str:
    """Returns the content of `differences.csv`: a minus b in points, with 95 % intervals."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _HEADS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.cells() for row in rows)
    return file.getvalue()


def differences_table(rows: Sequence[DifferenceRow], *, markdown: bool = False) -> str:
    """Returns all differences for the terminal, or as a Markdown table."""
    lines = [["a", "b", "measure", "a - b, points", "95 % interval", "", "seeds", "images"]]
    for row in rows:
        found = row.difference
        numbers = [f"{found.points:+.1f}", row.interval_text(), found.verdict]
        counts = [str(found.seeds), f"{found.images:,}"]
        lines.append([row.a, row.b, row.measure, *numbers, *counts])
    return align_columns(lines, markdown=markdown)


def difference_sentences(rows: Sequence[DifferenceRow]) -> list[str]:
    """Returns for each pair how the first does, such as `dynat against trades: ahead in both`.

    Clean and robust accuracy count: AutoAttack's, at the largest eps; else that of the last attack.
    """
    attacks = [row.measure for row in rows if row.measure != "clean"]
    found = [name for name in attacks if name.startswith("autoattack")]
    # The whole attack rather than what estimates it.
    whole = [name for name in found if not name.startswith("autoattack-sampled")]
    strongest = whole or found or attacks
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row.measure in ("clean", *strongest[-1:]):
            verdicts = pairs.setdefault((shown_text(row.a), shown_text(row.b)), {})
            verdicts[row.measure] = row.difference.verdict
    return [f"{a} against {b}: {_in_words(verdicts)}" for (a, b), verdicts in pairs.items()]


def _in_words(verdicts: dict[str, str]) -> str:
    if len(verdicts) == 2 and len(set(verdicts.values())) == 1:
        (verdict,) = set(verdicts.values())
        return f"{verdict} in {'either' if verdict == 'no difference' else 'both'}"
    return ", ".join(
        f"{verdict} in {_WRITTEN.get(measure, measure)}" for measure, verdict in verdicts.items()
    )
