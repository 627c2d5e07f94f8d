"""Models by timm's prefixes: `hf-hub:OWNER/NAME[@REVISION]` and `local-dir:FOLDER`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dynat_ray.errors import UserError
from dynat_ray.models.arguments import shortened
from dynat_ray.models.config_json import CONFIG_FILE
from dynat_ray.models.weights_file import WEIGHTS_FILE
from dynat_ray.user_path import user_path

_HUB = ("hf-hub:", "hf_hub:")
_FOLDER = "local-dir:"
_REPOSITORY = re.compile(r"([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,128}))?", re.ASCII)


def has_prefix(source: Path | str) -> bool:
    """Returns whether a model is named by one of timm's prefixes, and not by a path."""
    return str(source).startswith((*_HUB, _FOLDER))


def folder_of(source: Path | str) -> Path:
    """Returns the folder that a model lies in, downloaded if it has to be.

    Args:
        source: A path, `local-dir:FOLDER` or `hf-hub:OWNER/NAME[@REVISION]`.

    Raises:
        UserError: The hub does not answer, or has no such model.
    """
    if str(source).startswith(_HUB):
        return _download(str(source))
    return user_path(str(source).removeprefix(_FOLDER))


def _download(name: str) -> Path:
    from huggingface_hub import hf_hub_download  # half a second, for those who need it

    found = _REPOSITORY.fullmatch(name.partition(":")[2])
    if not found:
        raise UserError(f"{shortened(name)} is no model of the hub; give hf-hub:OWNER/NAME")
    repository, revision = found.groups()
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            path = hf_hub_download(
                repository, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")
            )
    # The hub's library has dozens of errors, and those of what it is built on.
    except Exception as error:
        raise UserError(f"{name} can't be had: {_reason(error, file)}") from error
    return Path(path).parent


def _reason(error: Exception, file: str) -> str:
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return "the hub has no such model, or only for those who log in (hf auth login)"
    if kind == "RevisionNotFoundError":
        return "the model has no such revision"
    if kind in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
        hint = "; download its weights and use python -m dynat_ray.convert"
        return f"it has no {file}{hint if file == WEIGHTS_FILE else ''}"
    cause = type(error.__cause__).__name__
    if kind == "LocalEntryNotFoundError" and cause != "FileMetadataError":
        off = cause == "OfflineModeIsEnabled"
        why = "HF_HUB_OFFLINE is set" if off else "the hub does not answer"
        return f"{why}, and it was not downloaded before; or give the folder of a copy"
    first = (str(error).splitlines() or [kind])[0][:200]
    return f"{kind}: {first} (check the connection, or download it and give its folder)"
