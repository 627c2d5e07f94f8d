"""Who works on a folder, as its claims tell those who only look."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from dynat_ray.storage.claims import FolderClaims, read_claim

Work = Literal["running", "stopping"]
# Of an owner on another machine, whose clock may be another: several signs of life.
_SILENCE = 180.0


def work_on(path: Path) -> Work | None:
    """Returns what the owner of a folder does; None: it has none that lives.

    One on this machine is looked up among the processes; of one elsewhere the last sign of life
    tells.

    Args:
        path: Folder or file of which there may be claims, see `dynat_ray.storage.lease`.
    """
    found: Work | None = None
    for name, content in FolderClaims(path).others().items():
        claim = read_claim(content)
        if claim.is_dead or (not claim.is_near and _is_silent(path.parent / name)):
            continue
        if not claim.ending:
            return "running"
        found = "stopping"
    return found


def _is_silent(claim: Path) -> bool:
    try:
        return time.time() - claim.stat().st_mtime > _SILENCE
    except OSError:
        return True
