"""What a loop waits for is counted, and not what it does itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynat_ray.training import timing
from dynat_ray.training.timing import LoaderTime


def test_only_the_iterators_time_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def items() -> Iterator[int]:
        for number in range(3):
            passes(2)
            yield number
        passes(1)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    watch = LoaderTime()
    seen = []
    for item in watch.over(items()):
        seen.append(item)
        passes(10)
    assert seen == [0, 1, 2]
    assert watch.take() == 7
    assert watch.take() == 0
