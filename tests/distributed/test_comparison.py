"""A comparison on one local Ray: order, failures, going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.distributed import comparison
from dynat_ray.distributed.comparison import ComparedRun, compare
from dynat_ray.distributed.training_run import resolve
from dynat_ray.errors import UserError
from dynat_ray.report.comparison_page import run_folder
from dynat_ray.settings import dump_config, override
from dynat_ray.storage.mirror import set_mirror_address
from dynat_ray.storage.run_folder import read_run_config

pytestmark = pytest.mark.usefixtures("local_ray")


def test_runs_wait_for_what_they_need_and_failures_stop_nothing(
    small_config: RunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "comparison"
    common = {
        "cluster.workers": 1,
        "train.epochs": 1,
        "eval.attacks": ["clean", "pgd-2"],
    }

    shared = override(small_config, common)

    def planned(label: str, after: str = "", **settings: object) -> ComparedRun:
        own = {key.replace("__", "."): value for key, value in settings.items()}
        config = override(small_config, common | {"method.name": label} | own)
        return ComparedRun(label, 0, config, after)

    standard = planned("standard")
    model = str(run_folder(folder, "standard", 0))
    helped = planned("hat", "standard", method__standard_model=model)
    broken = planned("pgd_at", optim__lr=1e30)
    words = (
        r"1 of 3 runs failed: pgd_at, seed 0: the loss is not finite at epoch 0, step \d, rank 0"
    )
    with pytest.raises(UserError, match=words):
        compare(shared, [helped, broken, standard], folder)
    output = capfd.readouterr().out
    assert output.index("standard, seed 0: done") < output.index("hat, seed 0: done")
    assert "| hat" in (folder / "compare.md").read_text()
    assert "pgd_at" not in (folder / "compare.md").read_text()
    assert read_run_config(run_folder(folder, "hat", 0)).method.standard_model == model
    environment = json.loads((run_folder(folder, "hat", 0) / "environment.json").read_text())
    assert environment["command"] == f"hat, seed 0 of the comparison {folder}"

    with pytest.raises(UserError, match="--resume"):
        compare(shared, [standard, helped], folder)
    results = run_folder(folder, "hat", 0) / "results.json"
    before = results.stat().st_mtime_ns
    table = compare(shared, [standard, helped], folder, resume=True)
    assert results.stat().st_mtime_ns == before, "what has ended is not done again"
    assert "| standard" in table
    # The first run's method is what others are compared with, unless it is said.
    assert "standard against hat: " in table
    assert "hat against standard: " in compare(
        shared, [standard, helped], folder, resume=True, first="hat"
    )
    rows = (folder / "differences.csv").read_text().splitlines()
    assert [row.split(",")[:3] for row in rows[1:]] == [
        ["hat", "standard", "clean"],
        ["hat", "standard", "pgd-2"],
    ]


def test_a_comparison_is_resumed_only_as_it_began(small_config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    comparison._open(folder, small_config, resume=True)
    before = (folder / "compare.yaml").read_text()
    with pytest.raises(UserError, match="--resume"):
        comparison._open(folder, small_config, resume=False)
    allowed = {"cluster.workers": 1, "train.seed": 5}
    comparison._open(folder, override(small_config, allowed), resume=True)
    for key, value in {"optim.lr": 0.5, "eval.attacks": ["clean"], "method.beta": 1.5}.items():
        other = override(small_config, {key: value})
        with pytest.raises(UserError, match=rf"another setting \({key}: "):
            comparison._open(folder, other, resume=True)
    assert (folder / "compare.yaml").read_text() == before
    (tmp_path / "old" / "runs").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no compare.yaml"):
        comparison._open(tmp_path / "old", small_config, resume=True)


def test_equal_compute_is_what_pgd_at_spends_in_the_epochs(
    small_config: RunConfig, tmp_path: Path
) -> None:
    runs = [
        ComparedRun(name, 0, override(small_config, {"method.name": name}))
        for name in ("dynat", "trades")
    ]
    common, runs = comparison._at_equal_compute(small_config, runs)
    # Two epochs of an attack of three steps, six units, and of learning, three.
    assert {each.config.train.compute for each in runs} == {common.train.compute} == {18.0}
    assert {each.config.train.epochs for each in runs} == {None}
    comparison._open(tmp_path, common, resume=True)
    comparison._open(tmp_path, common, resume=True)


def test_a_store_has_the_settings_before_the_first_run(
    small_config: RunConfig, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (there / "comparison").mkdir(parents=True)
    set_mirror_address(here, there.as_uri())
    comparison._open(here / "comparison", small_config, resume=False)
    assert (there / "comparison" / "compare.yaml").exists()


def test_a_run_is_done_whichever_way_its_paths_were_written(
    small_config: RunConfig, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits.parent)
    extra = {"data.extra_path": digits.name, "data.extra_fraction": 0.5}
    config = override(small_config, extra)
    _, [checked] = comparison._checked(config, [ComparedRun("dynat", 0, config)])
    (tmp_path / "config.yaml").write_text(dump_config(resolve(config)[0]))
    (tmp_path / "results.json").write_text('{"models": {}}')
    assert comparison._is_done(checked.config, tmp_path)
