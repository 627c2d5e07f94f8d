"""Data sets that recipes name, prepared once and kept."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dynat_ray.config import DataConfig
from dynat_ray.data import prepare_dataset
from dynat_ray.data.info import FORMAT_VERSION


def cached_dataset(config: DataConfig) -> Path:
    """Returns the prepared folder of `data.source`, preparing it on first use.

    It is kept in `$DYNAT_RAY_CACHE`, else in the user's cache folder.

    Args:
        config: Whose `source` is wanted.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dynat-ray"
    cache = Path(os.environ.get("DYNAT_RAY_CACHE", default)).expanduser()
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", config.source)
    if config.source.startswith(("folder:", "npz:")):
        kind, _, path = config.source.partition(":")
        source = f"{kind}:{Path(path).expanduser().resolve()}"
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", source)
    else:
        source = config.source
    folder = cache / f"{name}-v{FORMAT_VERSION}"
    if not (folder / "dataset.json").exists():
        cache.mkdir(parents=True, exist_ok=True)
        prepare_dataset(source, folder)
    return folder
