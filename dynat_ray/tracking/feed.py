"""What trackers have of a run and what they lack: fed from its files, so that nothing comes twice.

Beside a run's metrics lies `trackers.json`: by which name each tracker knows the run, and the last
epoch that it has. Who goes on with the run, in another process or on another machine, goes on from
there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.errors import UserError
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.mirror import Mirror
from dynat_ray.tracking.available import open_tracker
from dynat_ray.tracking.tracker import Ending, Tracked, Tracker

STATE = "trackers.json"
_SECONDS_BETWEEN_TRIES = 60.0
_LONGEST_REASON = 200


class Trackers:
    """All trackers of a run, search or comparison. Errors of theirs end nothing.

    Args:
        names: Which, of `train.trackers`.
        tracked: What they follow.
    """

    def __init__(self, names: Sequence[str], tracked: Tracked) -> None:
        self._tracked = tracked
        self._state = _read_state(tracked.folder)
        above = {} if tracked.parent is None else _read_state(tracked.parent)
        self._feeds = [
            _Feed(name, tracked, self._state, above.get(name, {}).get("run", ""))
            for name in dict.fromkeys(names)
        ]
        self._mirror = Mirror.of(tracked.folder)

    def catch_up(self) -> None:
        """Sends what is new in the run's metrics, where a tracker answers."""
        lines = read_metrics(self._tracked.folder / "metrics.jsonl")
        sent = [feed.send(lines) for feed in self._feeds]
        if any(sent):
            self._write_state()

    def end(
        self, ending: Ending, values: Mapping[str, float] | None = None, files: Sequence[str] = ()
    ) -> None:
        """Sends all that is missing and says how the run ended.

        Args:
            ending: How.
            values: Final results.
            files: Names of files and folders in the run's folder; those that are not there are
                left out.
        """
        lines = read_metrics(self._tracked.folder / "metrics.jsonl")
        found = [path for name in files if (path := self._tracked.folder / name).exists()]
        for feed in self._feeds:
            feed.end(lines, ending, values or {}, found)
        self._write_state()

    def _write_state(self) -> None:
        # What can't be written now is written with the next epoch.
        with suppress(OSError, UserError):
            atomic_write_text(self._tracked.folder / STATE, json.dumps(self._state) + "\n")
            if self._mirror is not None:
                events = (self._tracked.folder / "tensorboard").glob("*")
                self._mirror.push(only=(STATE, *(f"tensorboard/{file.name}" for file in events)))


def _read_state(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what `trackers.json` says of each tracker; anybody may have written it."""
    return {
        name: entry
        for name, entry in read_json(folder / STATE).items()
        if isinstance(entry, dict)
        and isinstance(entry.get("run"), str)
        and isinstance(entry.get("epoch", -1), int)
    }


class _Feed:
    """One tracker of one run.

    Args:
        name: The tracker's.
        tracked: What it follows.
        state: Of all trackers, by name; this one's entry is kept up to date.
        parent: By which name the tracker knows the search or comparison above; empty: none.
    """

    def __init__(
        self, name: str, tracked: Tracked, state: dict[str, dict[str, Any]], parent: str
    ) -> None:
        self._name, self._tracked, self._parent = name, tracked, parent
        self._state = state
        self._tracker: Tracker | None = None
        self._begun = False
        self._next_try = 0.0
        self._warned = False

    def send(self, lines: Sequence[Mapping[str, Any]]) -> bool:
        """Sends lines of epochs that the tracker lacks; returns whether there was anything to."""
        finished = self._ended is not None and self._ended[0] == "finished"
        if (self._begun or finished) and not self._missing(lines):
            return False
        if time.monotonic() < self._next_try:
            return False
        return self._try(lambda tracker: self._log(tracker, lines))

    def end(
        self,
        lines: Sequence[Mapping[str, Any]],
        ending: Ending,
        values: Mapping[str, float],
        files: Sequence[Path],
    ) -> None:
        """Sends what the tracker lacks, final results and files, and says how it ended."""

        def finish(tracker: Tracker) -> None:
            self._log(tracker, lines)
            if values or files:
                tracker.keep(values, files)
            tracker.end(ending)
            self._entry["ended"] = [ending, dict(values)]

        if not self._begun and self._ended == [ending, values] and not self._missing(lines):
            return
        # Who was interrupted does not wait for a tracker that was away a moment ago.
        if ending == "finished" or time.monotonic() >= self._next_try:
            self._try(finish)
        self._tracker, self._begun = None, False

    def _missing(self, lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        last = self._entry.get("epoch", -1)
        return [line for line in lines if line["epoch"] > last]

    def _log(self, tracker: Tracker, lines: Sequence[Mapping[str, Any]]) -> None:
        for line in self._missing(lines):
            values = {name: value for name, value in line.items() if isinstance(value, float)}
            tracker.log(values, line["epoch"])
            self._entry["epoch"] = line["epoch"]

    @property
    def _ended(self) -> list[Any] | None:
        """How the tracker was told that a run ended, and its results; None: it has to be told.

        A search or comparison that goes on may have other files in the end.
        """
        ended = self._entry.get("ended")
        known = isinstance(ended, list) and len(ended) == 2 and self._tracked.kind == "run"
        return ended if known else None

    @property
    def _entry(self) -> dict[str, Any]:
        return self._state.setdefault(self._name, {})

    def _try(self, action: Callable[[Tracker], object]) -> bool:
        """Does something with the tracker; returns whether it was done, and says once if not."""
        try:
            self._tracker = self._tracker or open_tracker(self._name)
            if not self._begun:
                known = self._entry.get("run", "")
                self._entry["run"] = self._tracker.begin(self._tracked, known, self._parent)
                self._begun = True
            action(self._tracker)
        except Exception as error:  # whatever a tracker's library raises, the run goes on
            self._next_try = time.monotonic() + _SECONDS_BETWEEN_TRIES
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        reason = shown_text(f"{type(error).__name__}: {error}", _LONGEST_REASON)
        print(
            f"warning: {self._name} does not take what it is sent ({reason}); the "
            f"{self._tracked.kind} goes on, and what is missing is sent at its end, or by the same "
            "command with --resume",
            file=sys.stderr,
            flush=True,
        )
