"""What processes below this one do while a test goes on: where they listen, above all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

LOOPBACK = ("127.", "::1", "::ffff:127.")
_SECONDS_BETWEEN_LOOKS = 0.25


def listening_places(process: psutil.Process) -> list[str]:
    """Returns the addresses on which a process listens, one for each port."""
    return [
        connection.laddr.ip
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


@contextmanager
def listening(name: str) -> Iterator[dict[int, list[str]]]:
    """Collects where processes below this one listen that have `name` in their title.

    Inside the block they are looked at again and again; each is kept, by its id, as it was when it
    listened on the most ports.
    """
    found: dict[int, list[str]] = {}

    def look(process: psutil.Process) -> None:
        if name in " ".join(process.cmdline()):
            places = listening_places(process)
            if len(places) > len(found.get(process.pid, [])):
                found[process.pid] = places

    with looking_at_processes(look):
        yield found


@contextmanager
def looking_at_processes(
    look: Callable[[psutil.Process], None], seconds: float = _SECONDS_BETWEEN_LOOKS
) -> Iterator[None]:
    """Calls `look` with every process below this one, again and again inside the block.

    What `look` asks of a process that has just ended is not answered; that ends nothing.

    Args:
        look: What is called.
        seconds: Between two looks, each of which costs as much as a small process itself.
    """
    over = threading.Event()

    def look_at_all() -> None:
        while not over.wait(seconds):
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error, OSError):
                    look(process)

    watching = threading.Thread(target=look_at_all)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
