"""The final table in the terminal."""

from __future__ import annotations

from dynat_ray.report import final_table
from tests.report.conftest import entry


def test_has_models_attacks_intervals_and_samples() -> None:
    results = {
        "best": {"clean": entry(97.25), "autoattack": entry(70.0, samples=1000)},
        "last": {"clean": entry(96.0), "autoattack": entry(65.5, samples=1000)},
        "seconds": 12.0,
    }
    lines = final_table(results).splitlines()
    assert lines[1].split() == ["clean", "autoattack"]
    assert lines[2].split("  ")[0] == "best"
    assert "97.2 (95.2 to 99.2)" in lines[2]
    assert "70.0 (68.0 to 72.0)" in lines[2]
    assert "65.5 (63.5 to 67.5)" in lines[3]
    assert lines[4].split() == ["test", "images", "360", "1,000"]
    # Columns stand below each other.
    assert lines[1].index("autoattack") == lines[2].index("70.0") == lines[3].index("65.5")


def test_takes_a_table_with_holes() -> None:
    results = {"best": {"clean": {"accuracy": 97.0, "samples": 5}}, "last": {"pgd-20": entry(3.0)}}
    lines = final_table(results).splitlines()
    assert lines[2].split() == ["best", "97.0", "-"]
    assert lines[3].split()[:2] == ["last", "-"]
    assert lines[4].split() == ["test", "images", "5", "360"]
