"""What the scaling benchmark says about what it measured."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

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
