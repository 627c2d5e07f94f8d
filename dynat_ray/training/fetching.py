"""Fetching training data from an object store: before all else, on every machine at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from dynat_ray.collectives import gather_objects, world_size
from dynat_ray.config import RunConfig
from dynat_ray.data import fetch_split, fetch_to_stream
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError
from dynat_ray.object_store import is_address
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.node_share import Share, choose_share, find_shares
from dynat_ray.training.session import Session

_SECONDS_BETWEEN_MEETINGS = 20.0
_SECONDS_BETWEEN_NOTES = 60.0

# Takes what takes lines that tell how far it is.
Fetch = Callable[[Callable[[str], None]], object]


class _State(NamedTuple):
    """How far a worker is.

    Attributes:
        place: Its machine.
        done: It has all that it reads, or can't get it.
        line: What was last said of its progress.
        error: Why it can't; empty: it can.
    """

    place: str
    done: bool
    line: str
    error: str


def fetch_data(config: RunConfig, session: Session) -> int:
    """Fetches what this machine lacks of the training data; nothing if they lie in folders.

    Args:
        config: The run.
        session: Its notes tell how far the fetching is.

    Returns:
        Which part of every batch is this worker's: its rank, unless its machine has fetched another
        part before.

    Raises:
        SharedUserError: A worker can't get them.
    """
    data = config.data
    if data.node_share == "part":
        shares: list[Share] = []
        workers = session.world_size
        _on_all_machines(lambda say: shares.extend(find_shares(config, workers)), session)
        own, used = choose_share(shares, session)
        fetch = partial(fetch_split, data.path, "train", data.loader, used=used)
        _on_all_machines(fetch, session)
        return own
    if any(map(is_address, (data.path, data.extra_path))):
        _on_all_machines(partial(fetch_here, data), session)
    return session.rank


def fetch_here(data: DataConfig, say: Callable[[str], None]) -> None:
    """Fetches what this machine lacks of all training data, whatever other machines do.

    Where single images are fetched while they are read, that is what must be here before.

    Args:
        data: Where they lie.
        say: Takes lines that tell how far it is.

    Raises:
        UserError: They can't be had.
    """
    for place in filter(None, (data.path, data.extra_path)):
        if data.node_share == "stream":
            fetch_to_stream(place, "train", say)
        else:
            fetch_split(place, "train", data.loader, say)


def _on_all_machines(fetch: Fetch, session: Session) -> None:
    """Fetches at once on all machines.

    Some may have all while others take hours, longer than a collective waits. So workers meet a few
    times a minute until the last is done.
    """
    if world_size() == 1:
        try:
            fetch(session.note)
        except UserError as error:
            raise SharedUserError(str(error)) from None
        return
    worker = _Fetching(fetch)
    worker.start()
    noted = time.monotonic()
    while True:
        worker.join(_SECONDS_BETWEEN_MEETINGS)
        states = gather_objects(
            _State(session.place, not worker.is_alive(), worker.line, worker.error)
        )
        if errors := [each.error for each in states if each.error]:
            raise SharedUserError(errors[0])
        slow = [each for each in states if not each.done]
        if not slow:
            return
        if session.rank == 0 and time.monotonic() - noted > _SECONDS_BETWEEN_NOTES:
            noted = time.monotonic()
            machines = len({each.place for each in slow})
            session.note(f"{slow[0].place}, of {machines} that wait for data: {slow[0].line}")


class _Fetching(threading.Thread):
    """Fetches beside the meetings.

    Attributes:
        line: What was last said of its progress.
        error: Why it ended early; empty: it did not.
    """

    def __init__(self, fetch: Fetch) -> None:
        super().__init__(daemon=True)
        self._fetch = fetch
        self.line, self.error = "", ""

    def run(self) -> None:
        try:
            self._fetch(self._take)
        except Exception as error:  # Whatever it is, the others must hear of it.
            self.error = str(error) or type(error).__name__

    def _take(self, line: str) -> None:
        self.line = line
