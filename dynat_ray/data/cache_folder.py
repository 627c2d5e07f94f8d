"""Where what can be made or fetched again is kept."""

from __future__ import annotations

import os
from pathlib import Path

from dynat_ray.user_path import user_path


def cache_folder() -> Path:
    """Returns the folder for what can be made again: `$DYNAT_RAY_CACHE`, else the user's cache."""
    if own := os.environ.get("DYNAT_RAY_CACHE"):
        return user_path(own)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynat-ray"
    # Compiled code lies below it as well, which is not loaded where others could replace it.
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return folder
