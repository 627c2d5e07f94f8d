"""How benchmarks take turns, say how far they are, and end on Ctrl-C with what they have."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from dynat_ray.benchmarks.turns import duration, in_environment, in_turn


def test_a_process_of_its_own_has_the_variables() -> None:
    name = "DYNAT_RAY_TEST_VARIABLE"
    assert in_environment({name: "1"}, os.getenv, name) == "1"
    assert name not in os.environ
    assert in_environment({}, os.getpid) != os.getpid()


def _calls(order: list[str], stop_at: int = 99) -> dict[str, Callable[[], float]]:
    def call(name: str) -> Callable[[], float]:
        def timed() -> float:
            order.append(name)
            if len(order) == stop_at:
                raise KeyboardInterrupt
            return float(len(order))

        return timed

    return {name: call(name) for name in ("a", "b")}


def test_each_is_timed_once_a_round_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    assert in_turn("step", _calls(order), 2) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:6] for line in lines] == [
        ["step", "round", str(number), "of", "2", name] for number in (1, 2) for name in "ab"
    ]
    assert lines[-1].endswith("0:00 left")


def test_each_may_be_first_in_turn() -> None:
    order: list[str] = []
    assert in_turn("step", _calls(order), 3, first_in_turn=True)["b"] == [2.0, 3.0, 6.0]
    assert "".join(order) == "abbaab"


def test_stopped_it_ends_with_whole_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert in_turn("step", _calls([], stop_at=6), 9) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}
    assert "stopped after 2 of 9 rounds" in capsys.readouterr().out


def test_stopped_before_the_first_round_ends_there_is_nothing() -> None:
    with pytest.raises(KeyboardInterrupt):
        in_turn("step", _calls([], stop_at=2), 9)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0:00"), (65, "1:05"), (3601, "60:01")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
