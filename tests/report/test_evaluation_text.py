from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.second_stage import SecondStage
from dynat_ray.perturb.threat import Threat
from dynat_ray.report.evaluation_text import accuracy_table, probe_lines, second_stage_lines


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


def test_whom_the_last_stages_saw_stands_below_the_block() -> None:
    stage = SecondStage(np.array([0, 1, -1, -1, 1], dtype=np.int8), np.array([1, 0, 0, 0, 1]) == 1)
    outcome = Outcome(
        attack="autoattack-sampled",
        positions=np.arange(5),
        predicted=np.zeros(5, np.int64),
        fooled_by=np.array([2, -1, 0, -2, -1]),
        stages=("apgd-ce", "apgd-t", "fab-t", "square"),
        second_stage=stage,
    )
    found = {outcome.attack: outcome}
    assert accuracy_table({Threat("Linf", 0.1): found}).splitlines()[-1].strip() == (
        "autoattack-sampled: at most 60.00 % after apgd-t; 2 of 3 survivors were tried: 1 of 1 "
        "with the smallest margins, 1 fell, 1 of 2 others, 0 fell"
    )
    whole = replace(outcome, second_stage=SecondStage(stage.stratum, stage.stratum >= 0))
    assert second_stage_lines({"a": whole.entry()}) == [
        "a: at most 60.00 % after apgd-t; all 3 survivors were tried, 1 fell"
    ]
    assert second_stage_lines({"pgd-20": _outcome().entry()}) == []


def test_corruptions_stand_by_kind_and_severity() -> None:
    accuracy = {"fog": {"1": 80.0, "5": 20.0, "mean": 50.0}, "snow": {"1": 70.0, "mean": 70.0}}
    found = {"corruptions": {"mean": 60.0, "samples": 4, "accuracy": accuracy}}
    head, *rows = probe_lines(found)
    assert "60.00 % right on average over 2 kinds (4 images)" in head
    assert [row.split() for row in rows] == [
        ["severity", "1", "5", "mean"],
        ["fog", "80.0", "20.0", "50.0"],
        ["snow", "70.0", "-", "70.0"],
    ]
