"""What a search writes: trials, its own settings, tables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dynat_ray.errors import UserError
from dynat_ray.searching import trial_records
from dynat_ray.searching.space import parse_space
from dynat_ray.searching.study import SearchOptions, open_search, read_search
from dynat_ray.searching.trial_records import (
    Trial,
    TrialsReader,
    begin_trial,
    read_trial,
    read_trials,
    trial_folder,
    write_trial,
)
from dynat_ray.searching.trials_table import write_trials_table
from dynat_ray.storage.run_length import RunLength
from tests.searching.conftest import SPACE, make_search, metrics_line

FILES = ("metrics.jsonl", "trial.json")


def test_trials_are_read_as_they_were_written(
    tmp_path: Path, add_trial: Callable[..., Trial]
) -> None:
    written = [
        add_trial(2, [20.0, 30.0, 25.0], state="stopped"),
        add_trial(0, [20.0, None, 40.0, 35.0], state="finished", validation={"clean": {}}),
        add_trial(1, [], state="failed", error="loss is not finite"),
    ]
    found = read_trials(tmp_path)
    assert [trial.number for trial in found] == [0, 1, 2]
    assert found == sorted(written, key=lambda trial: trial.number)
    default, failed, stopped = found
    assert default.best is not None
    assert default.best["epoch"] == 2
    assert (default.epochs, failed.epochs, stopped.epochs) == (4, 0, 3)
    assert failed.best is None
    assert default.seconds == 8.0


def test_the_best_epoch_is_the_one_whose_weights_the_trial_kept() -> None:
    """Not every method goes by robust accuracy."""
    lines = [metrics_line(0, 60.0, 3.0), metrics_line(1, 90.0, 0.0)]
    best = Trial(0, {}, metrics=lines).best
    assert best is not None
    assert best["epoch"] == 1


def test_of_trials_that_have_ended_a_second_look_reads_what_is_new(
    tmp_path: Path, add_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_trial(0, [20.0, 30.0], state="finished")
    add_trial(1, [20.0], state="stopped")
    add_trial(2, [20.0])
    read: list[int] = []
    real = trial_records._read

    def count(folder: Path, number: int) -> Trial | None:
        read.append(number)
        return real(folder, number)

    monkeypatch.setattr(trial_records, "_read", count)
    reader = TrialsReader(tmp_path)
    first = reader.read()
    assert reader.read() == first
    assert read == [0, 1, 2, 2]
    judged = replace(first[0], validation={"clean": {"accuracy": 1.0, "samples": 2}})
    write_trial(tmp_path, judged)
    assert reader.read()[0] == judged
    assert read == [0, 1, 2, 2, 0, 2]


def test_a_look_at_2000_trials_opens_the_files_of_those_that_run(
    tmp_path: Path, add_trial: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2000):
        write_trial(tmp_path, Trial(number, {"method.beta": number}, state="finished"))
    for number in (2000, 2001):
        add_trial(number, [20.0])
    reader = TrialsReader(tmp_path)
    assert len(reader.read()) == 2002
    opened: list[str] = []

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if counting and event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened.append(Path(str(arguments[0])).relative_to(tmp_path).as_posix())

    counting = True
    # It stays for the rest of the process; there is no way to take it back.
    sys.addaudithook(count)
    assert len(reader.read()) == 2002
    counting = False
    files = [f"trials/{number}/{name}" for number in (2000, 2001) for name in FILES]
    assert sorted(opened) == sorted(files)


@pytest.mark.parametrize(
    "content", ["", '{"number": 1, "sett', "[]", "null", '{"number": 1}', "\0\0\0", "[" * 100_000]
)
def test_a_trial_whose_file_is_cut_has_not_begun(
    tmp_path: Path, add_trial: Callable[..., Trial], content: str
) -> None:
    other, _ = add_trial(0, [20.0]), add_trial(1, [30.0])
    file = trial_folder(tmp_path, 1) / "trial.json"
    file.write_text(content)
    (tmp_path / "trials" / "notes").mkdir()
    (tmp_path / "trials" / "notes" / "trial.json").touch()
    assert read_trials(tmp_path) == [other]
    with pytest.raises(UserError, match=r"0001/trial\.json .* damaged"):
        read_trial(tmp_path, 1)
    # Begun anew, it has nothing of the settings that are lost.
    begin_trial(tmp_path, Trial(1, {"method.gap_coef": 0.5}))
    assert [each.name for each in file.parent.iterdir()] == ["trial.json"]
    assert read_trial(tmp_path, 1).metrics == []


@pytest.mark.parametrize("link", ["trials", "trials/0000"])
def test_trials_are_written_through_no_link(tmp_path: Path, link: str) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "search"
    elsewhere.mkdir()
    open_search(folder, make_search(), resume=False)
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(elsewhere)
    for begin in (write_trial, begin_trial):
        with pytest.raises(UserError, match=f"{link} is a link"):
            begin(folder, Trial(0, {}))
    with pytest.raises(UserError, match=f"{link} is a link"):
        open_search(folder, make_search(), resume=True)
    assert list(elsewhere.iterdir()) == []


def test_accuracy_after_equally_many_epochs(add_trial: Callable[..., Trial]) -> None:
    trial = add_trial(0, [20.0, None, 40.0, 35.0])
    assert [trial.after(RunLength(epochs)) for epochs in (1, 2, 3, 4, 5)] == [20, 20, 40, 40, None]
    assert add_trial(1, [None, None]).after(RunLength(2)) is None


def test_accuracy_after_equal_compute(add_trial: Callable[..., Trial]) -> None:
    """An epoch takes 22 units: the one in which so many are reached counts."""
    trial = add_trial(0, [20.0, 30.0, 40.0])
    after = [trial.after(RunLength(units, by_compute=True)) for units in (1, 22, 23, 66, 67)]
    assert after == [20, 20, 30, 40, None]


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    search = make_search(objectives=("clean", "robust"), seed=3)
    open_search(tmp_path / "a", search, resume=False)
    assert read_search(tmp_path / "a") == search


def test_a_search_is_resumed_only_as_it_began(tmp_path: Path) -> None:
    folder, search = tmp_path / "a", make_search()
    # So that a job which is tried again can give one and the same command.
    open_search(folder, search, resume=True)
    with pytest.raises(UserError, match="--resume"):
        open_search(folder, search, resume=False)
    more = replace(search, options=replace(search.options, trials=9))
    open_search(folder, more, resume=True)
    assert read_search(folder).options.trials == 9
    cases = [
        (replace(search, options=replace(search.options, seed=1)), "seed"),
        (replace(search, space=parse_space(SPACE | {"optim.lr": {"uniform": [0, 1]}})), "space"),
        (
            replace(
                search, default=replace(search.default, threat=type(search.default.threat)(eps=0.1))
            ),
            "threat.eps",
        ),
    ]
    for other, words in cases:
        with pytest.raises(UserError, match=words):
            open_search(folder, other, resume=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(UserError, match="not a search's"):
        open_search(tmp_path / "b", search, resume=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 0}, "--trials is 0"),
        ({"objectives": ("clean",)}, "robust"),
        ({"objectives": ("robust", "robust")}, "robust"),
        ({"objectives": ("robust", "clen")}, "did you mean clean"),
        ({"reduction": 1.0}, "--reduction"),
        ({"finalists": 0}, "--finalists"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SearchOptions(**{"trials": 3} | options)  # type: ignore[arg-type]


def test_tables(tmp_path: Path, add_trial: Callable[..., Trial]) -> None:
    add_trial(
        0, [20.0, 40.0, 30.0, 35.0], state="finished", validation={"autoattack": {"accuracy": 33.3}}
    )
    add_trial(1, [], state="failed", error="loss is not finite")
    write_trial(
        tmp_path,
        Trial(2, {"method.gap_coef": 0.5, "method.kl_temperature": 1.0, "optim.name": None}),
    )
    file = tmp_path / "trials.parquet"
    write_trials_table(file, make_search(), read_trials(tmp_path))
    rows = pq.read_table(file).to_pylist()
    assert [row["state"] for row in rows] == ["finished", "failed", "running"]
    assert rows[0] == {
        "number": 0,
        "state": "finished",
        "error": "",
        "method.gap_coef": 0.0,
        "method.kl_temperature": 1.0,
        "optim.name": "sgd",
        "epochs": 4,
        "forward_units": 88.0,
        "best_epoch": 1,
        "validation_clean_accuracy": 50.0,
        "validation_robust_accuracy": 40.0,
        "final_autoattack_accuracy": 33.3,
        "seconds": 8.0,
        "folder": "trials/0000",
    }
    assert rows[1]["error"] == "loss is not finite"
    assert rows[1]["best_epoch"] is rows[1]["final_autoattack_accuracy"] is None


def test_a_fraction_among_whole_numbers_stays_one(tmp_path: Path) -> None:
    search = make_search()
    space = parse_space({"optim.warmup_epochs": {"int": [0, 3]}})
    trials = [Trial(n, {"optim.warmup_epochs": value}) for n, value in enumerate((0.5, 2))]
    write_trials_table(tmp_path / "a.parquet", replace(search, space=space), trials)
    assert pq.read_table(tmp_path / "a.parquet")["optim.warmup_epochs"].to_pylist() == [0.5, 2.0]
    write_trials_table(tmp_path / "b.parquet", replace(search, space=space), trials[1:])
    assert pq.read_table(tmp_path / "b.parquet")["optim.warmup_epochs"].to_pylist() == [2]
    assert str(pq.read_table(tmp_path / "b.parquet")["optim.warmup_epochs"].type) == "int64"
