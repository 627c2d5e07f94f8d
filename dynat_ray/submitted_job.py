"""What is different in a submitted Ray job: it runs on the cluster's head node, in a copy of the
working directory that vanishes with it, and the submitter's other files are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path

# Ray sets it for the command of a job, and for nothing else.
_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_FRACTION = re.compile(r"[\d.]+/[\d.]+")


def in_submitted_job() -> bool:
    """Returns whether this is the command of a submitted Ray job."""
    return _MARK in os.environ


def explain_missing(error: UserError, arguments: Sequence[str]) -> UserError:
    """Returns `error`, in a submitted job with a word on the paths that are not on this machine.

    Args:
        error: What went wrong.
        arguments: Of the command.
    """
    missing = [path for path in _paths(arguments) if not user_path(path).exists()]
    named = next((path for path in missing if path in str(error)), "")
    if not in_submitted_job() or not named or "head node" in str(error):
        return error
    return UserError(
        f"{error}. A submitted job runs on the cluster's head node, and {named} is not there: put "
        "it on storage that the cluster's machines share and give its path there, or put it into "
        "the folder given with --working-dir and give its path relative to that folder"
    )


def require_lasting(out: Path, option: str) -> None:
    """Raises `UserError` if what a submitted job writes to `out` would be lost or unexpected.

    Args:
        out: File or folder to write.
        option: What named it.
    """
    if not in_submitted_job():
        return
    if not out.is_absolute() or out.is_relative_to(Path.cwd()):
        raise UserError(
            f"{option} is {out}, which lies in a submitted job's copy of the working directory and "
            "vanishes with it; give an absolute path on the cluster, or s3://BUCKET/PREFIX"
        )
    if not out.exists() and not out.parent.exists():
        raise UserError(
            f"{option} is {out}, but {out.parent} does not exist on the cluster's head node, where "
            "a submitted job runs; give a folder of the cluster's machines, or make it there first"
        )


def _paths(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments, or parts of them, that can be meant as paths."""
    parts = [part for argument in arguments for part in argument.split("=", 1)]
    found = [re.sub(r"^(folder|npz):", "", part) for part in parts if not part.startswith("--")]
    return [part for part in found if part and "://" not in part and not _FRACTION.fullmatch(part)]
