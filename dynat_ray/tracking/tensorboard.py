"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dynat_ray.storage.links import inner_folder
from dynat_ray.tracking.tracker import Ending, Tracked

FOLDER = "tensorboard"


class TensorBoard:
    """Event files; searches and comparisons have none of their own."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._writer: SummaryWriter | None = None
        self._epoch = 0

    def begin(self, tracked: Tracked, identifier: str, parent: str) -> str:
        if tracked.kind == "run":
            self._folder = inner_folder(tracked.folder, FOLDER)
        return FOLDER

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        # Events of this epoch and later, from before a restart, are hidden.
        self._add(values, epoch, purge_step=epoch)

    def keep(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        self._add(values, self._epoch)

    def end(self, ending: Ending) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, values: Mapping[str, float], epoch: int, purge_step: int | None = None) -> None:
        if self._folder is None:
            return
        self._epoch = epoch
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=purge_step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()
