from __future__ import annotations

import os

from dynat_ray.benchmarks.loader_rows import measure, table
from dynat_ray.data.ffcv_library import ffcv_problem


def test_each_loader_has_a_row_and_the_environment_stays_as_it_was() -> None:
    before = dict(os.environ)
    found = measure(images=600, epochs=1, threads=1)
    assert os.environ == before
    rows = found["rows"]
    assert rows.keys() == {"memory", "staged"} | (set() if ffcv_problem() else {"ffcv"})
    for row in rows.values():
        assert row["images"] == 600
        assert row["images_per_second"]["min"] > 0
        assert 0 < row["waiting"] < 1
    assert rows["staged"]["fetched_bytes"] > 600 * 3 * 32 * 32
    assert rows["staged"]["fetch_seconds"] > 0
    lines = table(rows).splitlines()
    assert len(lines) == len(rows)
    assert "s of fetching" in lines[-1]
