"""What a running search shows, on a terminal and in a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dynat_ray.distributed.search_progress import SearchPrinter
from dynat_ray.searching.trial_records import Trial
from tests.searching.conftest import add_trial, make_search  # noqa: F401  (a fixture)

AddTrial = Callable[..., Trial]


def test_in_a_log_file_a_line_when_a_trial_starts_and_ends(
    tmp_path: Path,
    add_trial: AddTrial,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_trial(0, [40.0] * 4, state="finished")
    add_trial(1, [40.0])
    with SearchPrinter(tmp_path, make_search(trials=4), None) as printer:
        printer.poll()
        add_trial(1, [40.0, 50.0], state="stopped")
        printer.poll()
        add_trial(2, [], state="failed", error="no luck")
    lines = capsys.readouterr().out.splitlines()
    # Trial 0 was over before this program began.
    assert lines[0] == "trial 1 starts: gap_coef 0.1, kl_temperature 2, name sgd"
    assert lines[1].startswith(
        "trial 1 stopped after 2 epochs: clean 60.0 %, robust 50.0 % (2 of 4"
    )
    assert "left)" in lines[1]
    assert lines[2].startswith("trial 2 failed: no luck (3 of 4 trials done")
    assert lines[4].startswith("trial  state")
    assert len(lines) == 9


def test_on_a_terminal_the_table_is_drawn_over_itself(
    tmp_path: Path,
    add_trial: AddTrial,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "8")
    add_trial(0, [40.0] * 4, state="finished")
    with SearchPrinter(tmp_path, make_search(trials=9), 600.0) as printer:
        printer.poll()
        first = capsys.readouterr().out
        for number in range(1, 9):
            add_trial(number, [40.0], state="failed", error="a long story " * 9)
        printer.poll()
        second = capsys.readouterr().out
    assert "\x1b" not in first
    assert len(first.splitlines()) == 3
    # Three lines up, and all below is cleared.
    assert second.startswith("\x1b[3F\x1b[J")
    shown = second.splitlines()
    assert len(shown) < 8
    assert max(len(line) for line in shown[1:]) < 60
    assert shown[-2].startswith("8 ")
    assert shown[-1].startswith("9 of 9 trials done")
