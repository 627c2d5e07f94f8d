"""Mistakes that all workers must hear of, so that none waits for another that has stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dynat_ray.collectives import gather_objects
from dynat_ray.errors import UserError

ResultT = TypeVar("ResultT")


class SharedUserError(UserError):
    """A user's mistake that every worker has seen and raises alike; trying again won't help."""


def on_all_workers(build: Callable[[], ResultT]) -> ResultT:
    """Runs `build`; a `UserError` of one worker is raised on all, so that none waits for ever."""
    error, result = "", None
    try:
        result = build()
    except UserError as caught:
        error = str(caught)
    for message in gather_objects(error):
        if message:
            raise SharedUserError(message)
    assert result is not None
    return result
