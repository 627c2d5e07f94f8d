"""Samplings replayed from a record, and a record that goes on where it was."""

from __future__ import annotations

import numpy as np
import pytest

from dynat_ray.benchmarks.attack_record import Record
from dynat_ray.benchmarks.sampling import replays, table
from dynat_ray.evaluation.outcomes import Outcome


@pytest.fixture
def record() -> Record:
    """1,500 images: half fall to APGD, and of the 750 others 15, those of the smallest margins."""
    fooled_by = np.tile([-1, 1], 750)
    margins = np.where(fooled_by == -1, np.arange(1500) + 1.0, 0.0)
    fooled_by[:30:2] = 2
    outcome = Outcome(
        attack="autoattack-sampled",
        positions=np.arange(1500),
        predicted=np.zeros(1500, dtype=np.int64),
        fooled_by=fooled_by,
        stages=("apgd-ce", "apgd-t", "fab-t", "square"),
        margins=margins,
    )
    return Record(outcome, (300.0, 700.0))


def test_times_and_widths_of_replays(record: Record) -> None:
    rows = replays(record)
    assert [(row["images"], row["second_stage"]) for row in rows] == [
        (images, second_stage) for images in (1000, 1500) for second_stage in (40, 100, 200)
    ]
    last = rows[-1]
    assert (last["survivors"], last["tried"]) == (750, 15 + 200)
    assert last["accuracy"] == pytest.approx(100 * 735 / 1500)
    assert last["seconds"] == 1000
    assert last["sampled_seconds"] == pytest.approx(300 + 700 * 215 / 750, abs=0.1)
    assert last["faster"] == pytest.approx(1000 / 500.7, abs=0.01)
    assert last["exact_inside"] == 10
    assert 1 < last["wider"] < rows[-2]["wider"]
    assert last["width_for_equal_time"] < last["wider"]
    assert len(table(rows).splitlines()) == 7


def test_a_part_has_its_part_of_the_time(record: Record) -> None:
    part = record.first(600)
    assert part.outcome.samples == 600
    assert part.seconds == (120, 280)
    assert part.survivors == 300
    everybody = part.sampled(1000, seed=0)
    assert everybody.seconds == part.seconds
    assert everybody.outcome.accuracy == part.outcome.accuracy
