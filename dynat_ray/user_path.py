"""Paths as users and settings write them, with `~`."""

from __future__ import annotations

import os
from pathlib import Path

from dynat_ray.errors import UserError


def user_path(text: Path | str) -> Path:
    """Returns a path with a home folder in the place of `~`, as a shell does.

    Args:
        text: Perhaps from a stranger's settings; the `~name` of nobody here stays as it is, where
            `Path.expanduser` would raise.
    """
    return Path(os.path.expanduser(text))


def require_there(what: str, given: str | None) -> None:
    """Asks for a path before the seconds that it takes to import what would look for it.

    Args:
        what: As which it was given.
        given: A path, or anything else; with a slash and without a colon it can only be a path.

    Raises:
        UserError: It can only be a path, and nothing is there.
    """
    if given and "/" in given and ":" not in given and not os.path.exists(user_path(given)):
        raise UserError(f"{what} {given} does not exist")
