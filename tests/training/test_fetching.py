"""Workers of several machines that wait for one another while data are fetched."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.training import fetching
from dynat_ray.training.agreement import SharedUserError
from tests.thread_workers import run_threads

DATA = DataConfig(path="s3://bucket/set")


def fetch_data(data: DataConfig, session: Any) -> None:
    config: Any = SimpleNamespace(data=data)
    assert fetching.fetch_data(config, session) == session.rank


def session(rank: int, notes: list[str]) -> Any:
    return SimpleNamespace(rank=rank, place=f"machine-{rank}", note=notes.append)


def test_the_fast_wait_for_the_slow_and_say_who_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SECONDS_BETWEEN_MEETINGS", 0.01)
    monkeypatch.setattr(fetching, "_SECONDS_BETWEEN_NOTES", 0.0)
    notes: list[str] = []
    asked: list[str] = []

    def fetch(place: str, split: str, kind: str, say: Any) -> None:
        asked.append(place)
        if len(asked) > 1:  # One of both has all.
            return
        say("1 of 2 GB")
        while not notes:
            time.sleep(0.01)

    monkeypatch.setattr(fetching, "fetch_split", fetch)
    run_threads(lambda rank: fetch_data(DATA, session(rank, notes)), 2, monkeypatch)
    assert asked == [DATA.path, DATA.path]
    assert notes[-1].endswith("of 1 that wait for data: 1 of 2 GB")


def test_what_one_can_not_get_all_hear_of(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    asked: list[str] = []

    def fetch(place: str, *rest: Any) -> None:
        asked.append(place)
        if len(asked) == 1:
            raise UserError("a part is missing")

    def work(rank: int) -> None:
        with pytest.raises(SharedUserError, match="a part is missing") as caught:
            fetch_data(DATA, session(rank, []))
        heard.append(str(caught.value))

    monkeypatch.setattr(fetching, "fetch_split", fetch)
    run_threads(work, 2, monkeypatch)
    assert len(heard) == 2


def test_one_worker_and_folders_need_no_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(fetching, "fetch_split", lambda place, *rest: asked.append(place))
    fetch_data(DataConfig(path="data/set"), session(0, []))
    assert not asked
    extra = DataConfig(path="s3://b/set", extra_path="s3://b/extra", extra_fraction=0.5)
    fetch_data(extra, session(0, []))
    assert asked == ["s3://b/set", "s3://b/extra"]
