"""Does the shards of an evaluation that are left, and keeps each as soon as it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from dynat_ray.errors import UserError
from dynat_ray.evaluation.outcomes import FinishedShard
from dynat_ray.evaluation.progress_bar import OnShard
from dynat_ray.evaluation.shards import Shard
from dynat_ray.evaluation.state_file import StateFile
from dynat_ray.storage.mirror import Mirror

# To an object store, where the evaluation's folder is kept in one.
_SECONDS_BETWEEN_PUSHES = 60


def finish_shards(
    state: StateFile,
    path: Path,
    execute: Callable[[Sequence[Shard]], Iterable[FinishedShard]],
    on_shard: OnShard,
) -> list[FinishedShard]:
    """Returns all shards: those of the state, and those that were left.

    Args:
        state: Open.
        path: Its file.
        execute: Does shards, at least one.
        on_shard: Called for each, the kept ones first.
    """
    finished = list(state.finished)
    for shard, outcomes in finished:
        on_shard(shard, outcomes)
    if not state.left:
        return finished
    mirror, pushed = Mirror.of(path.parent), time.monotonic()
    for shard, outcomes in execute(state.left):
        state.add(shard, outcomes)
        if mirror is not None and time.monotonic() - pushed > _SECONDS_BETWEEN_PUSHES:
            # The store may be back at the next one.
            with suppress(UserError):
                mirror.push(only=(path.name,))
            pushed = time.monotonic()
        finished.append((shard, outcomes))
        on_shard(shard, outcomes)
    return finished
