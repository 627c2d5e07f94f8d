"""Frees what the workers of a trial held when the trial is ended from outside.

Ray Train leaves this to a helper process that asks Ray's State API whether the training is still
there. A Ray without a dashboard has no such API, and where a second Ray runs on the machine the
question fails, since it does not say which one is meant; the helper then never acts, and no other
trial can ever start.
"""

from __future__ import annotations

import threading

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group_table,
    remove_placement_group,
)

# In what a worker reports: the placement group that it runs in.
GROUP = "placement_group"
# Ray's own helper needs about a second; before it the training's controller must be gone, or it
# would start its workers again.
_GRACE_SECONDS = 5.0


def current_group() -> str:
    """Returns the id of the placement group that this worker runs in; empty if in none."""
    group = ray.util.get_current_placement_group()
    return "" if group is None else str(group.id.hex())


def remove_group_later(group: str) -> threading.Timer:
    """Removes a placement group in a few seconds, if it is still there then.

    Args:
        group: Its id.
    """
    timer = threading.Timer(_GRACE_SECONDS, _remove, [group])
    timer.daemon = True
    timer.start()
    return timer


def remove_all_groups() -> None:
    """Removes every placement group of this program; nothing of it may be running."""
    job = ray.get_runtime_context().get_job_id()
    for group, found in placement_group_table().items():
        # An id ends with that of the program whose group it is.
        if group.endswith(job) and found["state"] != "REMOVED":
            _remove(group)


def _remove(group: str) -> None:
    # Ray may have ended since.
    if ray.is_initialized():
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
