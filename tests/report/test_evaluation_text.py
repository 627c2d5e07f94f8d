from __future__ import annotations

import numpy as np

from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.perturb.threat import Threat
from dynat_ray.report.evaluation_text import accuracy_table


def _outcome(note: str = "") -> Outcome:
    fooled_by = np.array([-1, -1, 0, -2])
    return Outcome("pgd-20", np.arange(4), np.zeros(4, np.int64), fooled_by, note=note)


def test_table_names_what_was_measured() -> None:
    table = accuracy_table({Threat("Linf", 8 / 255): {"pgd-20": _outcome()}})
    assert "8/255" in table
    row = next(line for line in table.splitlines() if "pgd-20" in line).split()
    assert row[:2] == ["pgd-20", "50.00"]
    assert row[-1] == "4"


def test_each_note_stands_once_below_all_blocks() -> None:
    outcomes = {Threat("L2", eps): {"apgd-t": _outcome("targeted margin")} for eps in (0.25, 0.5)}
    lines = accuracy_table(outcomes).splitlines()
    assert [line for line in lines if line.startswith("eps")] == ["eps 0.25", "eps 0.5"]
    assert [line.strip() for line in lines if "note" in line] == ["note: targeted margin"]
    assert "note" in lines[-1]
