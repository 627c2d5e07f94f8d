"""Differences between methods from runs as evaluation leaves them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.results import OUTCOMES, write_run_samples
from dynat_ray.report.comparison_page import run_folder, write_comparison
from dynat_ray.report.method_differences import measures_of
from dynat_ray.settings import dump_config, override

IMAGES = 400
# What every method is measured under; AutoAttack sees every second image.
ATTACKS = ("clean", "pgd-20", "cw", "autoattack")


def leave_run(
    folder: Path, config: RunConfig, method: str, seed: int, right: Mapping[str, int]
) -> None:
    """Leaves a run that has the first images right, so many by attack (of all 400)."""
    place = run_folder(folder, method, seed)
    place.mkdir(parents=True)
    settings = {"method.name": method.partition(":")[0], "train.seed": seed}
    (place / "config.yaml").write_text(dump_config(override(config, settings)))
    outcomes = {}
    for attack in ATTACKS:
        seen = np.arange(0, IMAGES, 2 if attack == "autoattack" else 1)
        fooled_by = np.where(seen < right[attack], -1, -2)
        outcomes[attack] = Outcome(attack, seen, seen * 0, fooled_by, (attack,))
    # The best model differs, so that a mix-up would be seen.
    wrong = Outcome("clean", np.arange(IMAGES), np.zeros(IMAGES), np.full(IMAGES, -2), ())
    tables = {"best": {**outcomes, "clean": wrong}, "last": outcomes}
    labels = np.zeros(IMAGES, dtype=np.int64)
    write_run_samples(place / OUTCOMES, tables, np.arange(IMAGES), labels)
    entries = {attack: outcome.entry() for attack, outcome in outcomes.items()}
    (place / "results.json").write_text(json.dumps({"best": entries, "last": entries}))
    line = {"epoch": 0, "epochs_done": 1.0, "forward_units": 22.0, "seconds": 2.0}
    line["passes_per_sample"] = 10.0
    (place / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def right(clean: int, robust: int) -> dict[str, int]:
    return {"clean": clean, "pgd-20": robust, "cw": robust, "autoattack": robust}


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "differences.csv").open()))


def test_three_methods_give_nine_differences(small_config: RunConfig, tmp_path: Path) -> None:
    for method, counts in {"dynat": (400, 200), "trades": (300, 100), "pgd_at": (298, 200)}.items():
        for seed in (0, 1):
            leave_run(tmp_path, small_config, method, seed, right(*counts))
    seeds = {"dynat": [0, 1], "trades": [0, 1], "pgd_at": [0, 1]}
    table = write_comparison(tmp_path, seeds, first="dynat")
    head = (tmp_path / "differences.csv").read_text().splitlines()[0]
    assert head == "a,b,measure,difference,low,high,seeds,images"
    rows = rows_of(tmp_path)
    pairs = [("dynat", "trades"), ("dynat", "pgd_at"), ("trades", "pgd_at")]
    measures = ["clean", "cw", "autoattack"]
    assert [(row["a"], row["b"], row["measure"]) for row in rows] == [
        (*pair, measure) for pair in pairs for measure in measures
    ]
    assert [float(row["difference"]) for row in rows[:3]] == [25, 25, 25]
    assert {(row["measure"], row["images"]) for row in rows} == {
        ("clean", "400"),
        ("cw", "400"),
        ("autoattack", "200"),
    }
    assert all(float(row["low"]) <= float(row["difference"]) <= float(row["high"]) for row in rows)
    assert {row["seeds"] for row in rows} == {"2"}
    page = (tmp_path / "compare.html").read_text()
    for words in (table, (tmp_path / "compare.md").read_text(), page):
        assert "dynat against trades: ahead in both" in words
        assert "dynat against pgd_at: ahead in clean, no difference in AutoAttack" in words
        assert "trades against pgd_at: no difference in clean, behind in AutoAttack" in words
    assert page.count("data:image/svg+xml") == 2
    assert page.count("<td>autoattack</td>") == 3


def test_the_first_method_need_not_be_the_first_of_the_table(
    small_config: RunConfig, tmp_path: Path
) -> None:
    labels = ["standard", "hat", "dynat", "mart", "trades"]
    for method in labels:
        leave_run(tmp_path, small_config, method, 0, right(300, 200))
    write_comparison(tmp_path, {label: [0] for label in labels}, first="hat")
    # Of so many methods only pairs with the first are compared.
    pairs = dict.fromkeys((row["a"], row["b"]) for row in rows_of(tmp_path))
    assert list(pairs) == [("hat", other) for other in labels if other != "hat"]


def test_seeds_that_do_not_match_are_left_out_and_said(
    small_config: RunConfig, tmp_path: Path
) -> None:
    for method, seeds in {"dynat": (0, 1, 2), "trades": (1, 2, 3), "mart": (7,)}.items():
        for seed in seeds:
            leave_run(tmp_path, small_config, method, seed, right(300, 200))
    # A run that has not been evaluated is none.
    leave_run(tmp_path, small_config, "trades", 0, right(300, 200))
    (run_folder(tmp_path, "trades", 0) / OUTCOMES).unlink()
    seeds = {"dynat": [0, 1, 2], "trades": [0, 1, 2, 3], "mart": [7]}
    table = write_comparison(tmp_path, seeds)
    assert "dynat and trades do not have the same seeds: paired over 1, 2, without 0, 3." in table
    assert "dynat and mart do not have the same seeds: not compared, without 0, 1, 2, 7." in table
    assert {row["seeds"] for row in rows_of(tmp_path)} == {"2"}
    assert "paired over 1, 2" in (tmp_path / "compare.html").read_text()


def test_other_images_are_refused(small_config: RunConfig, tmp_path: Path) -> None:
    leave_run(tmp_path, small_config, "dynat", 0, right(300, 200))
    leave_run(tmp_path, small_config, "trades", 0, right(300, 200))
    file = run_folder(tmp_path, "trades", 0) / OUTCOMES
    outcome = Outcome("clean", np.arange(10), np.zeros(10), np.full(10, -1))
    own = dict.fromkeys(["last"], dict.fromkeys(ATTACKS, outcome))
    write_run_samples(file, own, np.arange(10), np.zeros(10, dtype=np.int64))
    with pytest.raises(UserError, match="dynat and trades were evaluated on other images"):
        write_comparison(tmp_path, {"dynat": [0], "trades": [0]})


def test_a_file_that_is_cut_is_one_line(small_config: RunConfig, tmp_path: Path) -> None:
    leave_run(tmp_path, small_config, "dynat", 0, right(300, 200))
    file = run_folder(tmp_path, "dynat", 0) / OUTCOMES
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="can't be read as outcomes"):
        write_comparison(tmp_path, {"dynat": [0]})


def test_what_is_compared() -> None:
    assert measures_of(ATTACKS) == ["clean", "cw", "autoattack"]
    assert measures_of(["clean", "cw-20", "autoattack-sampled"]) == [
        "clean",
        "cw-20",
        "autoattack-sampled",
    ]
    assert measures_of(["clean", "pgd-2"]) == ["clean", "pgd-2"]
