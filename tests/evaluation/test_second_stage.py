from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.results import write_samples
from dynat_ray.evaluation.second_stage import SecondStage
from dynat_ray.perturb.threat import Threat


def _stage(stratum: list[int], tried: list[int]) -> SecondStage:
    return SecondStage(np.array(stratum, dtype=np.int8), np.array(tried, dtype=bool))


def test_tried_samples_stand_for_their_stratum() -> None:
    stage = _stage([-1, 0, 0, 1, 1, 1, 1, -1], [0, 1, 1, 0, 1, 1, 0, 0])
    assert stage.weights().tolist() == [1, 1, 1, 0, 2, 2, 0, 1]


def test_rows_say_who_was_tried(tmp_path: Path) -> None:
    outcome = Outcome(
        attack="autoattack-sampled",
        positions=np.array([0, 2, 3]),
        predicted=np.array([5, 1, 1]),
        fooled_by=np.array([0, -1, -1]),
        stages=("apgd-ce", "apgd-t", "fab-t", "square"),
        second_stage=_stage([-1, 0, 0], [0, 1, 0]),
    )
    file = tmp_path / "a.parquet"
    found = {Threat("Linf", 0.1): {outcome.attack: outcome}}
    write_samples(file, found, {}, np.arange(4), np.ones(4, dtype=np.int64))
    columns = pq.read_table(file).to_pydict()
    assert columns["autoattack-sampled.stratum"] == [-1, None, 0, 0]
    assert columns["autoattack-sampled.tried"] == [False, None, True, False]
    assert columns["autoattack-sampled.correct"] == [False, None, True, True]
