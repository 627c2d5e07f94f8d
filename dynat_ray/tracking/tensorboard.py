"""TensorBoard: event files in the run's folder.

Written with its own package. PyTorch's writer is the same and needs PyTorch, which the process of a
trial or run has no other use for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from dynat_ray.storage.links import inner_folder
from dynat_ray.tracking.tracker import Ending, Tracked

FOLDER = "tensorboard"


class TensorBoard:
    """Event files; searches and comparisons have none of their own."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._writer: EventFileWriter | None = None
        self._epoch = 0

    def begin(self, tracked: Tracked, identifier: str, parent: str) -> str:
        if tracked.kind == "run":
            self._folder = inner_folder(tracked.folder, FOLDER)
        return FOLDER

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        # Events of this epoch and later, from before a restart, are hidden.
        self._add(values, epoch, hides_older=True)

    def keep(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        self._add(values, self._epoch)

    def end(self, ending: Ending) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, values: Mapping[str, float], epoch: int, hides_older: bool = False) -> None:
        if self._folder is None:
            return
        self._epoch = epoch
        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder))
            if hides_older:
                start = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(step=epoch, session_log=start))
        for name, value in values.items():
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self._writer.add_event(Event(wall_time=time.time(), step=epoch, summary=summary))
        self._writer.flush()
