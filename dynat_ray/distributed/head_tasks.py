"""What needs PyTorch on the head for a moment, in processes beside that all trials share.

A trial's own process lives as long as the trial, and many of them go side by side: with PyTorch,
each would hold 0.4 GB more. Of these processes there are few, and Ray ends them when nothing is
left for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

# isort: split
import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dynat_ray.distributed.capacity import HEAD_TASKS_SHARE, head_memory
from dynat_ray.distributed.ray_internals import HEAD_NODE

Result = TypeVar("Result")
# Such a process was seen to take 0.55 GB.
_BYTES = 600_000_000


def begin_on_head(
    function: Callable[..., Any], *arguments: Any, memory_share: float = HEAD_TASKS_SHARE
) -> Any:
    """Calls a function in a process of its own on this machine, which is the head.

    Args:
        function: Where it was defined, nothing imports PyTorch; it does so itself.
        arguments: Its own.
        memory_share: Of the head's memory, for all that is done so at once.

    Returns:
        What `ray.get` waits for.
    """
    most = min(os.cpu_count() or 1, max(1, int(memory_share * head_memory() // _BYTES)))
    task = ray.remote(
        num_cpus=0,
        # Trials and their trainings take traces of it too: for the last one there would be no room.
        resources={HEAD_NODE: round(1 / (most + 1), 4)},
        # Of their own kind: Ray uses an idle process again, but for what has the same environment.
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        # A trial of Ray Tune has its children where it is, where there is no room for them.
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),  # type: ignore[arg-type]
    )(function)
    return task.remote(*arguments)


def on_head(function: Callable[..., Result], *arguments: Any) -> Result:
    """Returns what a function returns that is called as `begin_on_head` says.

    Raises:
        Exception: What it raised.
    """
    try:
        result: Result = ray.get(begin_on_head(function, *arguments))
    except RayTaskError as error:  # It comes wrapped in its traceback.
        raise error.cause from None
    return result
