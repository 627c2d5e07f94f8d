"""A checkpoint for all workers of a node: the first of them reads it, the others get it from there.

A shared folder or a store would else send the same bytes to every worker.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from dynat_ray.collectives import gather_objects
from dynat_ray.errors import UserError
from dynat_ray.training.agreement import on_all_workers
from dynat_ray.training.checkpoint import CHECKSUM_FILE, STATE_FILE, read_checkpoint
from dynat_ray.training.checkpoint_content import is_well_formed
from dynat_ray.training.session import Session


class NodeCheckpoint:
    """Reads checkpoints for the workers of one node; all workers call all methods alike.

    Args:
        session: Of this worker.

    Attributes:
        is_first: Whether this worker is the one of its node that reads.
    """

    def __init__(self, session: Session) -> None:
        nodes = gather_objects(session.node)
        self._session = session
        self._first = nodes.index(session.node)
        self._is_alone = nodes.count(session.node) == 1
        self.is_first = self._first == session.rank

    def read(self, folder: Path | None) -> dict[str, Any] | None:
        """Returns what a checkpoint holds, on the CPU; None if it is damaged or not ours.

        Args:
            folder: The checkpoint, on the first worker of a node.

        Raises:
            SharedUserError: There is no room for it in the scratch folder of a node.
        """
        with ExitStack() as until_all_have_it:
            own = on_all_workers(lambda: self._bring(folder, until_all_have_it))
            state = None
            if self.is_first:
                state = read_checkpoint(Path(own))
                state = state if is_well_formed(state) else None
            found = gather_objects(own if state is not None else "")[self._first]
            if not self.is_first and found:
                # Its first worker has checked it. Pages that nobody changes are in memory once.
                file = Path(found, STATE_FILE)
                state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            gather_objects(None)
            return state

    def _bring(self, folder: Path | None, until_all_have_it: ExitStack) -> str:
        """Returns where this worker's node has the checkpoint; empty: the first worker knows."""
        if folder is None or not self.is_first:
            return ""
        if self._is_alone:
            return str(folder)
        scratch = tempfile.TemporaryDirectory(dir=self._session.scratch_folder)
        here = Path(until_all_have_it.enter_context(scratch))
        try:
            for name in (STATE_FILE, CHECKSUM_FILE):
                if (folder / name).is_file():
                    _link_or_copy(folder / name, here / name)
        except OSError as error:
            raise UserError(
                f"checkpoint {folder.name} can't be copied to {self._session.place}, into "
                f"{self._session.scratch_folder}: {error.strerror or error}; free some space "
                "there and run the same command with --resume"
            ) from error
        return str(here)


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # On another disk, such as a shared one, or on one without links.
        shutil.copyfile(file, target)
