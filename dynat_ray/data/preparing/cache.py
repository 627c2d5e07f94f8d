"""Data sets that recipes name, prepared once and kept."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from dynat_ray.data.cache_folder import cache_folder
from dynat_ray.data.info import FORMAT_VERSION, read_info
from dynat_ray.data.preparing.dataset import prepare_dataset
from dynat_ray.data.preparing.sources import absolute_source
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError


def cached_dataset(config: DataConfig) -> Path:
    """Returns the prepared folder of `data.source`, preparing it on first use.

    It is kept in `$DYNAT_RAY_CACHE`, else in the user's cache folder. Images that a source gains or
    loses after that are not noticed.

    Args:
        config: Whose `source` is wanted.

    Raises:
        UserError: It can't be prepared, or something else is kept in its place.
    """
    source, mark = absolute_source(config.source), ""
    if ":" in source:
        # Names lose what a file name can't hold, so that two sources may share one.
        mark = "-" + hashlib.sha256(os.fsencode(source)).hexdigest()[:12]
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", source)[-100:]
    folder = cache_folder() / f"{name}{mark}-v{FORMAT_VERSION}"
    if not (folder / "dataset.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        info = prepare_dataset(source, folder)
        # Whoever names a source and no folder never sees what `prepare` says.
        for line in info.account.lines():
            print(f"{info.name}: {line}", file=sys.stderr)
    elif (kept := read_info(folder).source) != source:
        raise UserError(f"{folder} holds {kept}, not {source}; remove that folder")
    return folder
