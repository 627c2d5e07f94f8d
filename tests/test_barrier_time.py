"""What is added up as a worker's own time."""

from __future__ import annotations

import pytest

from dynat_ray import barrier_time
from dynat_ray.barrier_time import WorkingTime


def test_time_outside_of_meetings_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(barrier_time, "_now", lambda: now[0])
    clock = WorkingTime()
    # More spans than are remembered one by one.
    for _ in range(1000):
        now[0] += 2.0
        with clock.at_barrier():
            now[0] += 30.0
    # From the first on: what was before may be another process's time, of which this is a fork.
    assert clock.take() == pytest.approx(1998.0)
    assert clock.take() == 0.0
    now[0] += 1.0
    with pytest.raises(KeyError), clock.at_barrier():
        now[0] += 10.0
        raise KeyError
    now[0] += 3.0
    with clock.at_barrier():
        pass
    assert clock.take() == pytest.approx(4.0)
