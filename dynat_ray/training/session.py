"""What training needs of its surroundings: who it is, where checkpoints go.

Under Ray Train `dynat_ray.distributed` provides it; `LocalSession` is one process without Ray,
which is also how one debugs the loop.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dynat_ray.atomic_files import publish_folder
from dynat_ray.config import RunConfig
from dynat_ray.storage.checkpoint_names import (
    CHECKPOINTS,
    CHECKPOINTS_KEPT,
    checkpoint_folders,
)
from dynat_ray.storage.links import inner_folder

if TYPE_CHECKING:
    import torch

    from dynat_ray.training.validation import Validating


class Notice(IntEnum):
    """What signals and clocks ask of a worker; where workers differ, the greatest counts."""

    NOTHING = 0
    DUE = 1
    """Time for a checkpoint; training goes on while it is written."""
    SAVE = 2
    """A machine will go: a checkpoint first, then on as long as it lasts."""
    STOP = 3
    """The run is to end: a checkpoint, and no more."""


class StopRequested(Exception):
    """The run ends on a signal, its checkpoint written; all workers raise it alike."""


class Session(Protocol):
    """A worker's surroundings.

    Attributes:
        rank: This worker's number.
        world_size: Number of workers.
        device: Where the model lives.
        run_folder: The run's folder, the same for all workers.
        scratch_folder: Where a checkpoint is put together before it is handed over.
        place: The machine, as its owner knows it.
        node: Workers of the same one share the scratch folder; two containers of a machine need
            not.
    """

    rank: int
    world_size: int
    device: torch.device
    run_folder: Path
    scratch_folder: Path
    place: str
    node: str

    def checkpoints(self) -> Iterable[Path]:
        """Returns local folders of the checkpoints there are, newest first.

        Only the first worker of a node asks.
        """
        ...

    def report(
        self, metrics: Mapping[str, Any], name: str, folder: Path | None, *, wait: bool = False
    ) -> None:
        """Hands over an epoch's metrics and, from rank 0, a checkpoint to keep.

        All workers call it the same number of times.

        Args:
            metrics: For schedulers and dashboards.
            name: Of the checkpoint.
            folder: Its files, which the session takes away; None: no checkpoint, or not rank 0.
            wait: Return only when the checkpoint, and every one before it, is in its place.
        """
        ...

    def validating(self, config: RunConfig) -> Validating | None:
        """Returns who validates beside training, on a place of its own; None: there is none.

        Rank 0 asks once.

        Args:
            config: The run.
        """
        ...

    def files_kept(self) -> None:
        """Returns when the files in the run's folder are where the run is kept.

        Rank 0 calls it, on a thread, before it writes a checkpoint that rests on them. What goes
        wrong is raised by `report`.
        """
        ...

    def note(self, message: str) -> None:
        """Tells the user something that is no error."""
        ...

    def notice(self) -> Notice:
        """Returns what has been asked of this worker since it last saved."""
        ...

    def saved(self) -> None:
        """Takes in that the checkpoint which a notice asked for is kept."""
        ...


class LocalSession:
    """One process: checkpoints are folders beside each other in the run folder."""

    rank = 0
    world_size = 1

    def __init__(self, run_folder: Path, device: torch.device | None = None) -> None:
        self.run_folder = run_folder
        self.device = device or _fastest_device()
        self.scratch_folder = run_folder
        self.place = self.node = socket.gethostname()
        run_folder.mkdir(parents=True, exist_ok=True)

    def checkpoints(self) -> list[Path]:
        return checkpoint_folders(self.run_folder / CHECKPOINTS)

    def report(
        self, metrics: Mapping[str, Any], name: str, folder: Path | None, *, wait: bool = False
    ) -> None:
        if folder is None:
            return
        publish_folder(folder, inner_folder(self.run_folder, CHECKPOINTS) / name)
        for old in self.checkpoints()[CHECKPOINTS_KEPT:]:
            shutil.rmtree(old)

    def validating(self, config: RunConfig) -> Validating | None:
        """One process has no other place: training waits."""
        return None

    def files_kept(self) -> None:
        """They are kept where they are written."""

    def note(self, message: str) -> None:
        print(message)

    def notice(self) -> Notice:
        return Notice.NOTHING

    def saved(self) -> None:
        """Nobody gives this process notice."""


def _fastest_device() -> torch.device:
    # Processes that only hand on what is here import this file, and no PyTorch.
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
