"""A folder is sent to its store while other work goes on."""

from __future__ import annotations

import threading

import pytest

from dynat_ray.errors import UserError
from dynat_ray.storage.background_push import BackgroundPush


class Store:
    """Stands for a mirror; takes things once it is open, and then all that there is."""

    def __init__(self) -> None:
        self.here: list[str] = []
        self.there: list[list[str]] = []
        self.open, self.reached = threading.Event(), threading.Event()
        self.error = ""

    def push(self) -> None:
        sent = list(self.here)
        self.reached.set()
        assert self.open.wait(60)
        if self.error:
            raise UserError(self.error)
        self.there.append(sent)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def sending(store: Store) -> BackgroundPush:
    return BackgroundPush(store)  # type: ignore[arg-type]


def test_nobody_waits_and_what_came_meanwhile_goes_together(
    store: Store, sending: BackgroundPush
) -> None:
    store.here.append("first")
    sending.begin()
    assert store.reached.wait(60)
    for name in ("second", "third"):
        store.here.append(name)
        sending.begin()
    sending.check()
    assert store.there == []
    store.open.set()
    sending.wait()
    assert store.there[:2] == [["first"], ["first", "second", "third"]]
    assert len(store.there) <= 3


def test_whoever_waits_knows_that_all_is_there(store: Store, sending: BackgroundPush) -> None:
    store.open.set()
    for name in ("first", "second"):
        store.here.append(name)
        sending.wait()
        assert store.there[-1] == store.here


def test_what_did_not_arrive_is_told_until_it_has(store: Store, sending: BackgroundPush) -> None:
    store.open.set()
    store.error = "the store does not answer"
    sending.wait()
    for _ in range(2):
        with pytest.raises(UserError, match="does not answer"):
            sending.check()
    store.error = ""
    sending.wait()
    sending.check()
