"""What Ray Tune asks: which trial is next, and whether one goes on. No Ray process is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search import Searcher

from dynat_ray.distributed import tuner
from dynat_ray.distributed.placement_groups import GROUP
from dynat_ray.distributed.stop_flag import StopFlag
from dynat_ray.distributed.trials import (
    EarlyStopper,
    Proposer,
    trial_config,
)
from dynat_ray.distributed.tune_reports import ReportToTune, tune_report
from dynat_ray.searching.study import open_search
from dynat_ray.searching.trial_records import Trial, read_trial, read_trials, trial_folder
from dynat_ray.storage.mirror import set_mirror_address
from dynat_ray.storage.run_length import RunLength
from tests.searching.conftest import add_trial, make_search, metrics_line  # noqa: F401  (a fixture)

AddTrial = Callable[..., Trial]


class Tune:
    """Stands for Tune: adds trials to a stopper and passes reports on."""

    def __init__(self, folder: Path, **options: Any) -> None:
        options = {"length": RunLength(8), "first_rung": 2, "reduction": 2.0} | options
        self.length: RunLength = options["length"]
        self.stopper = EarlyStopper(folder, **options)
        self.trials: dict[int, Any] = {}

    def start(self, number: int) -> None:
        trial = SimpleNamespace(trial_id=f"tune-{number}", config={"number": number})
        self.trials[number] = trial
        self.stopper.on_trial_add(None, trial)  # type: ignore[arg-type]

    def report(self, number: int, epoch: int, robust: float | None) -> bool:
        """Returns whether the trial goes on after this epoch (from 0)."""
        report = tune_report(metrics_line(epoch, 90.0, robust), self.length)
        report["training_iteration"] = 1
        answer = self.stopper.on_trial_result(None, self.trials[number], report)
        return answer == "CONTINUE"


@pytest.fixture
def tune(tmp_path: Path, add_trial: AddTrial) -> Tune:  # noqa: F811
    tune = Tune(tmp_path)
    for number in range(4):
        add_trial(number, [])
        tune.start(number)
    return tune


def test_a_checkpoint_inside_an_epoch_is_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(
        TuneReportCallback,
        "after_report",
        lambda self, context, metrics, checkpoint: told.extend(metrics),
    )
    callback = ReportToTune.__new__(ReportToTune)
    callback._length = RunLength(8)
    callback.after_report(None, [{GROUP: "x"}], None)
    callback.after_report(None, [metrics_line(1, 90.0, 50.0) | {GROUP: "x"}], None)
    (report,) = told
    assert report["spent"] == 2


def test_a_trial_that_is_behind_at_a_rung_is_stopped(tune: Tune, tmp_path: Path) -> None:
    assert tune.report(0, 0, 50.0)
    assert tune.report(1, 0, 1.0)
    assert tune.report(0, 1, 50.0)
    assert not tune.report(1, 1, 1.0)
    assert tune.report(2, 1, 55.0)
    assert [trial.state for trial in read_trials(tmp_path)] == ["running", "stopped"] + [
        "running"
    ] * 2


def test_the_default_setting_is_never_stopped(tune: Tune, tmp_path: Path) -> None:
    assert tune.report(1, 1, 50.0)
    assert all(tune.report(0, epoch, 0.0) for epoch in range(8))
    assert read_trial(tmp_path, 0).state == "running"
    # But the others are measured by it.
    assert tune.report(2, 1, 49.0)


def test_rungs_are_epochs_not_reports(tune: Tune) -> None:
    tune.report(0, 1, 50.0)
    # The same first epoch again after each failure, and an epoch without validation.
    assert all(tune.report(1, 0, 1.0) for _ in range(5))
    assert tune.report(1, 1, None)
    assert not tune.report(1, 2, 1.0)


def test_rungs_of_trials_at_equal_compute_are_units(tmp_path: Path, add_trial: AddTrial) -> None:  # noqa: F811
    """An epoch of `metrics_line` takes 22 units."""
    length = RunLength(100.0, by_compute=True)
    tune = Tune(tmp_path, length=length, first_rung=30)
    for number in range(3):
        add_trial(number, [])
        tune.start(number)

    assert tune.report(0, 0, 50.0)
    assert tune.report(1, 0, 1.0), "22 units are before the first rung"
    assert tune.report(0, 1, 50.0)
    assert not tune.report(1, 1, 1.0)
    # With its last epoch the compute is spent, and no trial is stopped at its end.
    assert tune.report(2, 4, 1.0)


def test_no_trial_is_stopped_at_its_end(tune: Tune) -> None:
    for number, robust in ((0, 50.0), (1, 60.0)):
        for epoch in range(7):
            assert tune.report(number, epoch, robust)
    tune.report(0, 7, 50.0)
    assert tune.report(1, 7, 1.0)


def test_after_a_resume_earlier_trials_still_count(tmp_path: Path, add_trial: AddTrial) -> None:  # noqa: F811
    add_trial(0, [40.0] * 8, state="finished")
    add_trial(1, [10.0, 30.0], state="stopped")
    add_trial(2, [10.0, 60.0, 60.0])
    add_trial(3, [])
    tune = Tune(tmp_path)
    for number in (2, 3):
        tune.start(number)
    # It passed the first rung before, and is not asked there again.
    assert tune.report(2, 2, 5.0)
    assert not tune.report(3, 1, 35.0)


def test_trials_that_were_begun_come_before_new_ones(tmp_path: Path, add_trial: AddTrial) -> None:  # noqa: F811
    open_search(tmp_path, make_search(trials=5), resume=True)
    add_trial(0, [40.0] * 4, state="finished")
    add_trial(1, [40.0])
    add_trial(2, [40.0], state="failed", error="no luck")
    proposer = Proposer(tmp_path, make_search(trials=5), StopFlag())
    assert proposer.left == 3
    proposals = [proposer.suggest(name) for name in "abc"]
    assert [each["number"] for each in proposals] == [1, 3, 4]
    assert proposer.suggest("a") == proposals[0]
    assert proposer.suggest("d") == Searcher.FINISHED
    assert [trial.number for trial in read_trials(tmp_path)] == [0, 1, 2, 3, 4]
    # Its own settings are kept, not proposed anew.
    assert read_trial(tmp_path, 1).settings["method.gap_coef"] == 0.1


def test_trial_0_is_the_default_setting(tmp_path: Path) -> None:
    search = make_search()
    proposer = Proposer(tmp_path, search, StopFlag("stop"))
    assert proposer.suggest("a") == {
        "folder": str(tmp_path),
        "number": 0,
        "stop": "stop",
    }
    assert trial_config(search, read_trial(tmp_path, 0)) == search.default
    proposer.suggest("b")
    other = read_trial(tmp_path, 1)
    assert trial_config(search, other).method.gap_coef == other.settings["method.gap_coef"]


def test_a_trial_whose_process_died_is_recorded(tmp_path: Path) -> None:
    proposer = Proposer(tmp_path, make_search(), StopFlag())
    proposer.suggest("a")
    proposer.on_trial_complete("a", error=True)
    trial = read_trial(tmp_path, 0)
    assert trial.state == "failed"
    assert "died" in trial.error
    assert trial_folder(tmp_path, 0).is_dir()


def test_a_trial_that_was_cut_off_stays_unfinished(tmp_path: Path) -> None:
    proposer = Proposer(tmp_path, make_search(), StopFlag())
    proposer.suggest("a")
    proposer.on_trial_complete("a")
    assert read_trial(tmp_path, 0).state == "running"
    assert Proposer(tmp_path, make_search(), StopFlag()).left == 5


def test_what_a_stopped_trial_measured_last_is_fetched(
    tmp_path: Path,
    add_trial: AddTrial,  # noqa: F811
) -> None:
    """Where workers write to a store, the trial's own process is gone before it has fetched it."""
    add_trial(0, [1.0], state="stopped")
    here, there = trial_folder(tmp_path, 0), tmp_path / "store" / "trials" / "0000"
    set_mirror_address(tmp_path, (tmp_path / "store").as_uri())
    (there / "samples").mkdir(parents=True)
    lines = [metrics_line(epoch, 90.0, 50.0) for epoch in range(2)]
    (there / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (there / "samples" / "epoch_0001.parquet").touch()
    (there / "trial.json").write_text("an older one")
    proposer = Proposer(tmp_path, make_search(), StopFlag())
    proposer._numbers["a"] = 0
    proposer.on_trial_complete("a")
    assert read_trial(tmp_path, 0).metrics == lines
    assert not (here / "samples").exists(), "all other trials would wait for them"
    tuner._fetch_unfinished(tmp_path)
    assert (here / "samples" / "epoch_0001.parquet").exists()
