"""Paths as users and settings write them, with `~`."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: Path | str) -> Path:
    """Returns a path with a home folder in the place of `~`, as a shell does.

    Args:
        text: Perhaps from a stranger's settings; the `~name` of nobody here stays as it is, where
            `Path.expanduser` would raise.
    """
    return Path(os.path.expanduser(text))
