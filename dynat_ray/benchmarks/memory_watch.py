"""The memory of other processes over time, and how busy this machine is."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Resident:
    """What a process has in memory, in bytes.

    Attributes:
        own: What is its own: heap and stacks.
        mapped: Pages of files, such as images that are read through the page cache. The system
            takes them back when it needs room.
    """

    own: int
    mapped: int


class MemoryWatch:
    """Looks at the memory of some processes, twice a second, while its context lasts.

    Args:
        processes: Returns their numbers, each time anew.
    """

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes
        self._seen: dict[int, list[tuple[float, Resident]]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> dict[int, dict[str, Any]]:
        """Returns what each process had from `begin` to `end`, by its number.

        Those that are looked at fewer than four times are left out.

        Args:
            begin: Seconds since 1970.
            end: Likewise.

        Returns:
            In bytes: `early` and `late`, the medians of own memory over the second and the last
            quarter of the time; `growth` from the one to the other; `peak` of own memory; `mapped`
            at the end.
        """
        found = {}
        for process, seen in self._seen.items():
            inside = [(when, each) for when, each in seen if begin <= when <= end]
            quarter = (end - begin) / 4
            early = [r.own for when, r in inside if begin + quarter <= when < begin + 2 * quarter]
            late = [r.own for when, r in inside if when >= begin + 3 * quarter]
            if len(inside) < 4 or not early or not late:
                continue
            before, after = round(statistics.median(early)), round(statistics.median(late))
            found[process] = {
                "early": before,
                "late": after,
                "growth": after - before,
                "peak": max(each.own for _, each in inside),
                "mapped": inside[-1][1].mapped,
            }
        return found

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            for process in self._processes():
                if (now := resident(process)) is not None:
                    self._seen.setdefault(process, []).append((time.time(), now))


def resident(process: int) -> Resident | None:
    """Returns what a process has in memory; None: it has ended, or the system does not say."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    kilobytes = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name in ("RssAnon", "RssFile", "RssShmem")
    }
    if "RssAnon" not in kilobytes:
        return None
    mapped = kilobytes["RssFile"] + kilobytes["RssShmem"]
    return Resident(1024 * kilobytes["RssAnon"], 1024 * mapped)


def idle_seconds() -> float:
    """Returns for how long this machine's cores were idle since it started, summed over them."""
    first, *_ = Path("/proc/stat").read_text().splitlines()
    fields = first.split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
