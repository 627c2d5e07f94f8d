"""Frees what the workers of a training held when its controller is gone, killed or ended with it.

Ray Train leaves this to a helper process that asks Ray's State API whether the controller is still
there. On a cluster that somebody else started the question fails where a second Ray runs on the
machine, since it does not say which one is meant; the helper then never acts, and nobody can ever
start where those workers were.
"""

from __future__ import annotations

import threading

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group

from dynat_ray.distributed.ray_internals import (
    own_placement_groups,
    read_flag,
    remove_flag,
    set_flag,
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


def tell_group(training: str) -> None:
    """Says, on a worker, where the workers of its training run.

    Args:
        training: What tells it from all others.
    """
    set_flag(_flag(training), current_group())


def free_group(training: str) -> None:
    """Removes the placement group of a training that is over, if that is still there."""
    # Ray may have ended since.
    if ray.is_initialized() and (group := read_flag(_flag(training))):
        _remove(group)
        remove_flag(_flag(training))


def _flag(training: str) -> str:
    return f"dynat-ray-group-{training}"


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
    for group in own_placement_groups():
        _remove(group)


def _remove(group: str) -> None:
    if ray.is_initialized():
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
