"""What a search does when its trials are over."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dynat_ray.distributed import tuner
from dynat_ray.searching.trial_records import Trial, begin_trial


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
