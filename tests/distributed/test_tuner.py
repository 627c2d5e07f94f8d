"""What a search does when its trials are over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from dynat_ray.distributed import tuner
from dynat_ray.searching.trial_records import Trial, begin_trial, trial_folder
from tests.searching.conftest import add_trial  # noqa: F401  (a fixture)


def test_what_unfinished_trials_left_in_a_store_is_fetched_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, state in enumerate(["finished", "stopped", "failed", "running"]):
        begin_trial(tmp_path, Trial(number, {}, state=state))  # type: ignore[arg-type]
    fetched: list[str] = []
    # Who waits for the others alone, waits in vain.
    together = threading.Barrier(3)

    def fetch(folder: Path) -> None:
        together.wait(timeout=60)
        fetched.append(folder.name)

    monkeypatch.setattr(tuner, "fetch_measured", fetch)
    tuner._fetch_unfinished(tmp_path)
    assert sorted(fetched) == ["0001", "0002", "0003"]


def test_missing_reports_are_begun_before_one_is_waited_for(
    tmp_path: Path,
    add_trial: Callable[..., Trial],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, accuracies in enumerate([[20.0], [30.0], [], [40.0]]):
        add_trial(number, accuracies, state="stopped")
    (trial_folder(tmp_path, 0) / "report.html").touch()
    begun: list[str] = []

    def begin(function: Any, folder: Path, *, memory_share: float) -> str:
        assert function is tuner.write_trial_report
        assert memory_share > 0.1, "no trial needs it any more"
        begun.append(folder.name)
        return folder.name

    def get(answer: str) -> None:
        assert begun == ["0001", "0003"], "trial 2 has measured nothing"
        if answer == "0001":
            raise ray.exceptions.RayError("some trace\nno space left")

    monkeypatch.setattr(tuner, "begin_on_head", begin)
    monkeypatch.setattr(tuner, "ray", SimpleNamespace(get=get, exceptions=ray.exceptions))
    tuner._write_missing_reports(tmp_path)
    said = capsys.readouterr().out
    assert said == "the report of trial 1 could not be written: no space left\n"
