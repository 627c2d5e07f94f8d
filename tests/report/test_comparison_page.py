"""The comparison's table against numbers computed by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.report.comparison_page import run_folder, write_comparison
from dynat_ray.settings import dump_config, override


def leave_run(
    folder: Path,
    config: RunConfig,
    method: str,
    seed: int,
    clean: float,
    attacks: tuple[str, ...] = ("clean", "autoattack"),
) -> None:
    place = run_folder(folder, method, seed)
    place.mkdir(parents=True)
    settings = {"method.name": method.partition(":")[0], "train.seed": seed}
    (place / "config.yaml").write_text(dump_config(override(config, settings)))
    table = {
        attack: {"accuracy": value, "samples": 10}
        for attack in attacks
        for value in [clean - 40 * (attack != "clean")]
    }
    last = {attack: {**entry, "accuracy": entry["accuracy"] - 1} for attack, entry in table.items()}
    (place / "results.json").write_text(json.dumps({"best": table, "last": last}))
    lines = [
        {
            "epoch": epoch,
            "epochs_done": epoch + 1.0,
            "forward_units": 22.0 * (epoch + 1),
            "seconds": 2.0 + epoch,
            "passes_per_sample": 10.0,
        }
        for epoch in range(3)
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_means_and_deviations_over_the_seeds(small_config: RunConfig, tmp_path: Path) -> None:
    for seed, clean in enumerate((80.0, 84.0)):
        leave_run(tmp_path, small_config, "trades", seed, clean)
    leave_run(tmp_path, small_config, "dynat:beta=3", 0, 85.0)
    table = write_comparison(tmp_path, {"trades": [0, 1], "dynat:beta=3": [0, 1], "mart": [0]})
    assert "82.0 ± 2.8" in table
    assert "mart" not in table
    rows = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [(row["method"], row["model"], row["seeds"]) for row in rows] == [
        ("trades", "best", "2"),
        ("trades", "last", "2"),
        ("dynat:beta=3", "best", "1"),
        ("dynat:beta=3", "last", "1"),
    ]
    assert float(rows[0]["autoattack_mean"]) == pytest.approx(42)
    assert float(rows[0]["autoattack_sd"]) == pytest.approx(8**0.5, abs=1e-3)
    assert float(rows[1]["clean_mean"]) == pytest.approx(81)
    assert float(rows[0]["seconds_per_epoch_mean"]) == pytest.approx(3)
    costs = [float(rows[0][f"{name}_mean"]) for name in ("epochs", "forward_units", "seconds")]
    assert costs == [3, 66, 9]
    assert rows[2]["clean_sd"] == ""
    assert (tmp_path / "compare.md").read_text().rstrip("\n") == table
    assert (tmp_path / "compare.svg").read_text().lstrip().startswith("<?xml")
    page = (tmp_path / "compare.html").read_text()
    assert "82.0 ± 2.8" in page
    assert "Not finished: mart" in page
    assert "trained for 2 epochs" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_labels_that_begin_alike_are_not_mixed_up(small_config: RunConfig, tmp_path: Path) -> None:
    leave_run(tmp_path, small_config, "dynat", 0, 80.0)
    leave_run(tmp_path, small_config, "dynat:beta=3", 0, 90.0)
    rows = list(csv.DictReader((write(tmp_path)).open()))
    assert [float(row["clean_mean"]) for row in rows if row["model"] == "best"] == [80, 90]


def write(folder: Path) -> Path:
    write_comparison(folder, {"dynat": [0], "dynat:beta=3": [0]})
    return folder / "compare.csv"


def test_the_head_holds_what_all_methods_share(small_config: RunConfig, tmp_path: Path) -> None:
    config = override(small_config, {"attack.steps": 10, "data.val_fraction": 0})
    for method in ("dynat", "pgd_at"):
        leave_run(tmp_path, config, method, 0, 80.0)
    for methods, steps in ((["pgd_at"], True), (["dynat", "pgd_at"], False)):
        write_comparison(tmp_path, {method: [0] for method in methods})
        page = (tmp_path / "compare.html").read_text()
        # DynAT makes three of them.
        assert ("10 steps in training" in page) == steps
        assert "3 steps" not in page
        assert "Linf, eps" in page
        assert "best is" in page


def test_nothing_done_yet(tmp_path: Path) -> None:
    write_comparison(tmp_path, {"dynat": [0]})
    assert "Not finished: dynat" in (tmp_path / "compare.html").read_text()


def test_seeds_that_were_not_asked_for_do_not_count(
    small_config: RunConfig, tmp_path: Path
) -> None:
    for seed, clean in enumerate((80.0, 90.0)):
        leave_run(tmp_path, small_config, "trades", seed, clean)
    assert "| 80.0 " in write_comparison(tmp_path, {"trades": [0]})
    assert "| 90.0 " in write_comparison(tmp_path, {"trades": [1, 2]})


def test_without_clean_there_is_no_figure(small_config: RunConfig, tmp_path: Path) -> None:
    leave_run(tmp_path, small_config, "trades", 0, 80.0, ("pgd-20", "autoattack"))
    assert "| 40.0 " in write_comparison(tmp_path, {"trades": [0]})
    assert not (tmp_path / "compare.svg").exists()


def test_autoattack_is_the_robust_accuracy_wherever_it_stands(
    small_config: RunConfig, tmp_path: Path
) -> None:
    leave_run(tmp_path, small_config, "trades", 0, 80.0, ("autoattack", "pgd-20", "clean"))
    write_comparison(tmp_path, {"trades": [0]})
    assert "Clean accuracy against autoattack" in (tmp_path / "compare.html").read_text()
