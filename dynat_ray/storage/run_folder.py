"""The folder of a run: its name, whether it may be used, and the settings in it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import Settings, build_config, dump_config, parse_settings, read_settings
from dynat_ray.storage.resumable_folder import FolderKind, open_folder

CONFIG = "config.yaml"
# What a resumed run can't change: its checkpoints would mean something else.
_FIXED = (
    *("model.", "method.name", "threat.norm", "optim.name"),
    # These and the seed say which images train and which are held out.
    *("data.path", "data.limit", "data.val_fraction", "train.seed"),
)


def _may_change(key: str, old: object, new: object) -> bool:
    if key == "data.node_share":
        # From or to parts, some images of an epoch would come twice and others not at all.
        return "part" not in (old, new)
    return not key.startswith(_FIXED)


_RUN = FolderKind(
    name="run",
    file=CONFIG,
    read=lambda folder: config_settings(read_run_config(folder)),
    may_change=_may_change,
    # A trial of a search has its record there before it begins.
    joins_others=True,
)


def default_name(recipe: str, method: str) -> str:
    """Returns a name from recipe, method and time."""
    return f"{recipe}-{method}-{datetime.now():%Y%m%d-%H%M%S}"


def open_run_folder(folder: Path, config: RunConfig, *, resume: bool) -> list[str]:
    """Creates the run's folder, or opens it again, and writes `config.yaml`.

    Args:
        folder: The run's folder.
        config: Complete, with `data.path` resolved.
        resume: Go on with the run that is there, or start it if there is none.

    Returns:
        Settings that differ from those the run began with, as `key: old -> new`.

    Raises:
        UserError: The folder exists and `resume` is False; a setting differs that can't be
            changed; the disk is full or read-only.
    """
    text = dump_config(config)
    return open_folder(_RUN, folder, config_settings(config), text, resume=resume)


def read_run_config(folder: Path) -> RunConfig:
    """Returns the config that a run was made with."""
    try:
        settings = read_settings(folder / CONFIG)
    except UserError as error:
        raise UserError(f"{folder} is not a run folder: {error}") from None
    return build_config([settings])


def config_settings(config: RunConfig) -> Settings:
    """Returns a config's settings by key, as they come back from a file."""
    return parse_settings(dump_config(config))
