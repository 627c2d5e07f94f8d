"""What the scaling benchmark says about what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dynat_ray.benchmarks import scaling
from dynat_ray.benchmarks.scaling import table, write

SPEEDS = {
    "strong": {1: [100.0, 90.0, 110.0], 2: [190.0, 185.0, 250.0]},
    "weak": {1: [100.0, 90.0, 110.0], 2: [200.0, 195.0, 205.0]},
}


def test_the_table_has_medians_and_efficiencies() -> None:
    rows = [line.strip("| ").split(" | ") for line in table(SPEEDS).splitlines()[2:]]
    assert [(row[0], *row[2:]) for row in rows] == [
        ("1", "100", "1.00", "100 %"),
        ("2", "190", "1.90", "95 %"),
        ("1", "100", "1.00", "100 %"),
        ("2", "200", "2.00", "100 %"),
    ]


def test_table_and_figure_are_written(tmp_path: Path) -> None:
    write(SPEEDS, tmp_path)
    assert (tmp_path / "scaling.md").read_text() == table(SPEEDS)
    with Image.open(tmp_path / "scaling.png") as figure:
        assert figure.size[0] > 400


def test_a_worker_never_gets_less_than_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: set[tuple[int, int]] = set()

    def speed(data: Path, folder: Path, workers: int, batch: int, gpu: bool) -> float:
        ran.add((workers, batch))
        return 100.0 * workers

    monkeypatch.setattr(scaling, "connect", lambda: None)
    monkeypatch.setattr(scaling, "cluster_total", lambda kind: 16 * (kind == "CPU"))
    monkeypatch.setattr(scaling, "_speed", speed)
    found = scaling.measure(rounds=1)
    assert {batch for workers, batch in ran} == {128, 256, 512, 1024}
    assert {batch // workers for workers, batch in ran if batch > 128} == {128}
    assert list(found["images_per_second"]["strong"]) == [1, 2, 4, 8, 16]
    assert list(found["images_per_second"]["weak"]) == [1, 2, 4, 8]
    assert sorted(found["ratios"]) == ["scaling_strong_16", "scaling_weak_8"]
    write(found["images_per_second"], tmp_path)
    assert (tmp_path / "scaling.png").exists()
