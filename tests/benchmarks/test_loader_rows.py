from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynat_ray.benchmarks import loader_rows
from dynat_ray.benchmarks.loader_rows import measure, table
from dynat_ray.data import load_info
from dynat_ray.data.ffcv_library import ffcv_problem


def _settings() -> dict[str, str]:
    """Returns what says where stores and the cache are."""
    ours = ("AWS_", "DYNAT_RAY_")
    return {name: value for name, value in os.environ.items() if name.startswith(ours)}


def test_images_that_are_streamed_lie_in_parts_that_are_not_fetched(
    few_digits: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("ffcv")
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path))
    loader_rows._send(few_digits, f"{bucket}/set")
    info, before = load_info(f"{bucket}/set"), load_info(few_digits)
    parts = info.parts["train.beton"]
    assert len(parts) == loader_rows._PARTS + 2
    assert info.files == before.files
    # All but the first one and the last.
    assert sum(part.bytes for part in parts[1:-1]) == before.counts["train"] * 3 * 8 * 8


def test_each_loader_has_a_row_and_the_environment_stays_as_it_was() -> None:
    before = _settings()
    rows = measure(images=300, rounds=1, threads=1)
    assert _settings() == before
    with_ffcv = set() if ffcv_problem() else {"ffcv", "streaming", "kept"}
    assert rows.keys() == {"memory", "staged"} | with_ffcv
    for row in rows.values():
        assert row["images_per_second"]["min"] > 0
        assert 0 < row["waiting"] < 1
    assert rows["staged"]["fetched_bytes"] > 300 * 3 * 32 * 32
    assert rows["staged"]["fetch_seconds"] > 0
    lines = table(rows).splitlines()
    assert len(lines) == len(rows)
    assert any("s of fetching" in line for line in lines)
