"""Where a run goes on: at the newest checkpoint that all workers can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dynat_ray.collectives import gather_over_workers
from dynat_ray.errors import UserError
from dynat_ray.storage.checkpoint_names import checkpoint_name, checkpoint_order
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training.agreement import SharedUserError, on_all_workers
from dynat_ray.training.final_models import recorded_epochs
from dynat_ray.training.node_checkpoint import NodeCheckpoint
from dynat_ray.training.session import Session
from dynat_ray.training.setup import TrainingSetup
from dynat_ray.training.state import Progress, restore_state
from dynat_ray.training.step import Networks

_NONE = (0, 0)
# Of workers that are not the first of their node.
_SILENT = (-1, -1)
_ANEW = "to begin anew on purpose give another --name, or remove the folder of the run"


def resume(
    session: Session,
    networks: Networks,
    optimizer: torch.optim.Optimizer,
    setup: TrainingSetup,
) -> Progress:
    """Puts the newest checkpoint that is intact on all workers back in place.

    Every worker calls it.

    Returns:
        Where the run is: at its beginning if there is no checkpoint.

    Raises:
        SharedUserError: The checkpoint does not fit the settings or the data; there are
            checkpoints, and every one is damaged; or a run that was trained has none.
        UserError: Some workers see checkpoints and others none.
    """
    state = _newest_state(session)
    if state is None:
        on_all_workers(lambda: _require_not_trained(session.run_folder))
        _note_lost_epochs(session)
        return Progress()
    progress, word = on_all_workers(
        lambda: restore_state(state, networks, optimizer, setup, session.rank)
    )
    if word and session.rank == 0:
        session.note(word)
    return progress


def _require_not_trained(run_folder: Path) -> bool:
    """Raises `UserError` if a training without checkpoints would take the place of another."""
    if epochs := recorded_epochs(run_folder):
        raise UserError(
            f"the run {run_folder.name} was trained for {epochs} epochs, and has no checkpoint to "
            f"go on from; {_ANEW}"
        )
    return True


def _note_lost_epochs(session: Session) -> None:
    """Says so if epochs were done that the run can't go on from; its metrics begin anew."""
    if session.rank == 0 and (done := len(read_metrics(session.run_folder / "metrics.jsonl"))):
        epochs = "1 epoch" if done == 1 else f"{done} epochs"
        session.note(f"there is no checkpoint after {epochs}; the run begins anew")


def _newest_state(session: Session) -> dict[str, Any] | None:
    """Returns what the newest checkpoint holds that is intact on all workers; None without any.

    Machines may see a shared folder at different times, so their first workers agree on each
    checkpoint before any of them takes it.

    Raises:
        SharedUserError: There are checkpoints, and every one is damaged.
        UserError: Some workers see checkpoints and others none.
    """
    node = NodeCheckpoint(session)
    folders = iter(session.checkpoints() if node.is_first else ())
    own = next(folders, None)
    damaged: list[str] = []
    while True:
        answers = _gather(session, _order(own) if node.is_first else _SILENT)
        seen = [answer for answer in answers if answer != _SILENT]
        oldest = min(seen)
        if oldest == max(seen) == _NONE:
            if damaged:
                raise _nothing_left(session.run_folder.name, damaged)
            return None
        if oldest == _NONE:
            raise UserError(
                f"worker {answers.index(oldest)} sees no checkpoint in {session.run_folder}, other "
                "workers do; all machines must see the same folder"
            )
        if oldest == max(seen):
            state = node.read(own)
            if min(_gather(session, (int(state is not None), 0))) == (1, 0):
                for name in damaged if session.rank == 0 else ():
                    session.note(f"checkpoint {name} is damaged; the one before it is used")
                return state
            damaged.append(checkpoint_name(*oldest))
        if _order(own) > oldest or oldest == max(seen):
            own = next(folders, None)


def _nothing_left(run: str, damaged: list[str]) -> SharedUserError:
    """Returns what to tell a user whose training would be thrown away by beginning anew."""
    which = "checkpoint" if len(damaged) == 1 else "checkpoints"
    are = "is" if len(damaged) == 1 else "are"
    return SharedUserError(
        f"the run {run} can't go on: its {which} {' and '.join(damaged)} {are} damaged, and there "
        f"is no other; {_ANEW}"
    )


def _order(folder: Path | None) -> tuple[int, int]:
    return (folder and checkpoint_order(folder.name)) or _NONE


def _gather(session: Session, values: tuple[int, int]) -> list[tuple[int, int]]:
    rows = gather_over_workers(torch.tensor([values], device=session.device)).tolist()
    return [(first, second) for first, second in rows]
