"""What trackers get of a run: each epoch once, all of it in the end, and never an error back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.settings import override
from dynat_ray.storage.metrics import write_metrics
from dynat_ray.tracking import feed
from dynat_ray.tracking.run_trackers import RUN_FILES, final_values, group_trackers, run_trackers
from dynat_ray.tracking.tracker import Ending, Tracked


class Recorder:
    """A tracker that remembers what it was told, unless it is away."""

    away = False

    def __init__(self) -> None:
        self.told: list[object] = []

    def begin(self, tracked: Tracked, identifier: str, parent: str) -> str:
        self._answer()
        self.told.append((tracked.kind, tracked.name, identifier, parent))
        return identifier or f"id of {tracked.name}"

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._answer()
        self.told.append((epoch, dict(values)))

    def keep(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        self._answer()
        self.told.append((dict(values), [file.name for file in files]))

    def end(self, ending: Ending) -> None:
        self._answer()
        self.told.append(ending)

    def _answer(self) -> None:
        if Recorder.away:
            raise ConnectionError("nobody is\nthere")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    one = Recorder()
    monkeypatch.setattr(feed, "open_tracker", lambda name: one)
    monkeypatch.setattr(Recorder, "away", False)
    return one


@pytest.fixture
def config(small_config: RunConfig) -> RunConfig:
    return override(small_config, {"train.trackers": ["mlflow"]})


def write(folder: Path, *epochs: int) -> None:
    for epoch in epochs:
        write_metrics(folder / "metrics.jsonl", {"epoch": epoch, "loss": 1.0, "step": 3})


def test_an_epoch_comes_once_whatever_restarts(
    recorder: Recorder, config: RunConfig, tmp_path: Path
) -> None:
    write(tmp_path, 0, 1)
    trackers = run_trackers(config, tmp_path)
    trackers.catch_up()
    trackers.catch_up()
    # The last epoch is run again, then another, by another process.
    write(tmp_path, 1)
    run_trackers(config, tmp_path).catch_up()
    write(tmp_path, 2)
    (tmp_path / "report.html").write_text("")
    results = {"best": {"clean": {"accuracy": 90.0}}, "last": {}, "seconds": 1.0}
    run_trackers(config, tmp_path).end("finished", final_values(results), RUN_FILES)
    name = f"id of {tmp_path.name}"
    again = ("run", tmp_path.name, name, "")
    assert recorder.told == [
        ("run", tmp_path.name, "", ""),
        *((epoch, {"loss": 1.0}) for epoch in (0, 1)),
        *(again, again),
        (2, {"loss": 1.0}),
        ({"best/clean": 90.0}, ["report.html"]),
        "finished",
    ]


def test_a_run_that_has_ended_is_not_told_of_again(
    recorder: Recorder, config: RunConfig, tmp_path: Path
) -> None:
    write(tmp_path, 0)
    run_trackers(config, tmp_path).end("finished", {"best/clean": 90.0})
    told = len(recorder.told)
    again = run_trackers(config, tmp_path)
    again.catch_up()
    again.end("finished", {"best/clean": 90.0})
    assert len(recorder.told) == told
    # It was evaluated anew, then trained further.
    run_trackers(config, tmp_path).end("finished", {"best/clean": 91.0})
    assert recorder.told[-2:] == [({"best/clean": 91.0}, []), "finished"]
    write(tmp_path, 1)
    run_trackers(config, tmp_path).catch_up()
    assert recorder.told[-1] == (1, {"loss": 1.0})


def test_one_that_is_away_gets_everything_later_and_is_named_once(
    recorder: Recorder,
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(feed, "_SECONDS_BETWEEN_TRIES", 0.0)
    trackers = run_trackers(config, tmp_path)
    trackers.catch_up()
    Recorder.away = True
    for epoch in range(2):
        write(tmp_path, epoch)
        trackers.catch_up()
    warning = capsys.readouterr().err
    assert warning.startswith("warning: mlflow does not take what it is sent (ConnectionError: ")
    assert warning.count("\n") == 1
    Recorder.away = False
    trackers.end("finished")
    assert [each[0] for each in recorder.told[1:-1]] == [0, 1]  # type: ignore[index]
    assert recorder.told[-1] == "finished"


def test_one_that_was_away_is_left_alone_for_a_while(
    recorder: Recorder, config: RunConfig, tmp_path: Path
) -> None:
    Recorder.away = True
    trackers = run_trackers(config, tmp_path)
    trackers.catch_up()
    Recorder.away = False
    write(tmp_path, 0)
    trackers.catch_up()
    trackers.end("stopped")
    assert recorder.told == []


def test_runs_of_a_search_know_what_they_are_part_of(
    recorder: Recorder, config: RunConfig, tmp_path: Path
) -> None:
    group = tmp_path / "search"
    run = group / "trials" / "0001"
    run.mkdir(parents=True)
    group_trackers("search", config, group, {"space.train.epochs": "1 to 3"})
    run_trackers(config, run).catch_up()
    assert recorder.told == [("search", "search", "", ""), ("run", "0001", "", "id of search")]


@pytest.mark.parametrize("content", ["[", "[1]", '{"mlflow": 3}', '{"mlflow": {"run": 1}}'])
def test_a_state_that_says_nothing_is_none(
    recorder: Recorder, config: RunConfig, tmp_path: Path, content: str
) -> None:
    (tmp_path / feed.STATE).write_text(content)
    write(tmp_path, 0)
    run_trackers(config, tmp_path).catch_up()
    assert recorder.told[0] == ("run", tmp_path.name, "", "")
    state = json.loads((tmp_path / feed.STATE).read_text())
    assert state["mlflow"] == {"run": f"id of {tmp_path.name}", "epoch": 0}
