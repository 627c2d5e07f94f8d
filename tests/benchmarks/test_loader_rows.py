from __future__ import annotations

import os

from dynat_ray.benchmarks.loader_rows import measure, table
from dynat_ray.data.ffcv_library import ffcv_problem


def _settings() -> dict[str, str]:
    """Returns what says where stores and the cache are."""
    ours = ("AWS_", "DYNAT_RAY_")
    return {name: value for name, value in os.environ.items() if name.startswith(ours)}


def test_each_loader_has_a_row_and_the_environment_stays_as_it_was() -> None:
    before = _settings()
    rows = measure(images=600, rounds=1, threads=1)
    assert _settings() == before
    with_ffcv = set() if ffcv_problem() else {"ffcv", "streaming", "kept"}
    assert rows.keys() == {"memory", "staged"} | with_ffcv
    for row in rows.values():
        assert row["images_per_second"]["min"] > 0
        assert 0 < row["waiting"] < 1
    assert rows["staged"]["fetched_bytes"] > 600 * 3 * 32 * 32
    assert rows["staged"]["fetch_seconds"] > 0
    lines = table(rows).splitlines()
    assert len(lines) == len(rows)
    assert any("s of fetching" in line for line in lines)
