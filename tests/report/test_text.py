"""Tables in the terminal."""

from __future__ import annotations

import pytest

from dynat_ray.report import final_table
from dynat_ray.report.text import align_columns, most_telling, trials_table
from dynat_ray.searching.trial_records import Trial
from dynat_ray.storage.run_length import RunLength
from tests.report.conftest import entry
from tests.searching.conftest import metrics_lines


def test_columns_stand_below_each_other() -> None:
    rows = [["", "clean"], ["pgd_at", "9"], ["b", ""]]
    assert align_columns(rows).splitlines() == ["        clean", "pgd_at  9", "b"]
    assert align_columns(rows, markdown=True).splitlines() == [
        "|        | clean |",
        "| ------ | ----- |",
        "| pgd_at | 9     |",
        "| b      |       |",
    ]


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


def test_trials_of_a_search() -> None:
    settings = {"method.gap_coef": 0.0, "method.kl_temperature": 1.0, "optim.name": "sgd"}
    robust = [20.0, 40.0, 30.0, 35.0]
    lines = metrics_lines(robust)
    trials = [
        Trial(0, settings, "finished", metrics=lines),
        Trial(1, settings, "failed", error="loss is not finite"),
        Trial(2, settings | {"optim.name": None}),
    ]
    text = trials_table(trials, RunLength(4)).splitlines()
    assert text[0].split() == [
        "trial",
        "state",
        "epoch",
        "clean",
        "robust",
        "gap_coef",
        "kl_temperature",
        "name",
    ]
    assert text[1].split() == ["0", "*", "finished", "4/4", "50.0", "40.0", "0", "1", "sgd"]
    assert text[2].split()[1] == "failed"
    assert text[2].endswith("loss is not finite")
    assert max(map(len, trials_table(trials, RunLength(4), width=30).splitlines())) == 30


@pytest.mark.parametrize(
    ("attacks", "expected"),
    [
        (["clean", "pgd-20"], None),
        (["clean", "autoattack-sampled", "pgd-20"], "autoattack-sampled"),
        (["autoattack-sampled", "autoattack"], "autoattack"),
        (["autoattack-sampled", "autoattack-rand"], "autoattack-rand"),
    ],
)
def test_the_whole_attack_says_more_than_its_sample(
    attacks: list[str], expected: str | None
) -> None:
    assert most_telling(attacks) == expected
