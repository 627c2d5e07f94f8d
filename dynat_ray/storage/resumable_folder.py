"""Folders that a command creates or, with `--resume`, goes on with: the rules, once for all kinds.

A YAML file in the folder holds the settings that it began with. A folder that has it is refused
without `--resume`, and with it if a setting differs that would make old and new parts mean
different things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynat_ray.atomic_files import atomic_write_text, is_unfinished, make_folder
from dynat_ray.errors import UserError
from dynat_ray.settings import Settings
from dynat_ray.storage.links import refuse_links


@dataclass(frozen=True, kw_only=True)
class FolderKind:
    """What a run, a search and a comparison each say of their folders.

    Attributes:
        name: In errors, such as `run`.
        file: Name of the file that holds the settings.
        read: Returns the settings, by key, that a folder holds.
        may_change: Returns whether a setting, by its key, may change from one value to another when
            the folder is resumed.
        keeps_first: The file stays as the first command wrote it; else it follows the last one.
        joins_others: With `--resume` it may begin in a folder that holds other files already.
    """

    name: str
    file: str
    read: Callable[[Path], Settings]
    may_change: Callable[[str, object, object], bool]
    keeps_first: bool = False
    joins_others: bool = False


def open_folder(
    kind: FolderKind, folder: Path, settings: Settings, text: str, *, resume: bool
) -> list[str]:
    """Creates a folder, or opens it again, and writes its settings.

    Args:
        kind: What the folder is of.
        folder: To open.
        settings: Of this command, by key.
        text: The same as the file is to hold it.
        resume: Go on with what is there, or start if there is nothing.

    Returns:
        Settings that differ from those in the folder, as `key: old -> new`.

    Raises:
        UserError: The folder exists and `resume` is False, or it is of no such kind; a setting
            differs that can't be changed; it holds links to elsewhere; the disk is full or
            read-only.
    """
    exists = (folder / kind.file).is_file()
    if exists and not resume:
        raise UserError(
            f"the {kind.name} {folder} exists; add --resume to go on with it, or give another "
            "--name"
        )
    changes = _changes(kind, folder, settings) if exists else []
    if not exists and not (resume and kind.joins_others):
        _require_empty(kind, folder)
    refuse_links(folder)
    if not exists or not kind.keeps_first:
        try:
            make_folder(folder)
            atomic_write_text(folder / kind.file, text)
        except OSError as error:
            raise UserError(
                f"the {kind.name}'s folder {folder} can't be written: {error}"
            ) from None
    return changes


def _changes(kind: FolderKind, folder: Path, settings: Settings) -> list[str]:
    """Returns the settings that differ; raises `UserError` if one of them must not."""
    before = kind.read(folder)
    changes = []
    for key in dict.fromkeys([*settings, *before]):
        old, new = before.get(key), settings.get(key)
        if old == new:
            continue
        changes.append(f"{key}: {old!r} -> {new!r}")
        if not kind.may_change(key, old, new):
            raise UserError(
                f"the {kind.name} {folder} can't be resumed with another setting ({changes[-1]}); "
                f"give the new {kind.name} another --name"
            )
    return changes


def _require_empty(kind: FolderKind, folder: Path) -> None:
    # A command that was killed while it wrote its first file has begun nothing.
    if folder.exists() and any(not is_unfinished(each.name) for each in folder.iterdir()):
        raise UserError(
            f"the folder {folder} exists and is not a {kind.name}'s: it holds no {kind.file}; give "
            "another --name"
        )
