"""Links in a folder of ours, which somebody else may have made: nothing is written through them."""

from __future__ import annotations

import os
from pathlib import Path

from dynat_ray.atomic_files import make_folder
from dynat_ray.errors import UserError
from dynat_ray.storage.checkpoint_names import CHECKPOINTS


def refuse_links(folder: Path) -> None:
    """Looks through a folder that will be written to, and all below it.

    Files that are links are replaced when they are written, so that they may stay. Among
    checkpoints, which Ray Train writes as well, there may be none.

    Args:
        folder: Itself it may be a link, since the user named it.

    Raises:
        UserError: A link leads to another folder, to nothing, or is among the checkpoints.
    """
    _look(folder, files=False)


def inner_folder(folder: Path, *names: str) -> Path:
    """Returns a folder below another, made if need be.

    Args:
        folder: The outer one, which may be a link.
        names: The way down from there, which may not.

    Raises:
        UserError: It leads through a link or a file.
        OSError: It can't be made.
    """
    inner = folder
    for name in names:
        inner /= name
        if inner.is_symlink():
            raise _refused(inner)
        if inner.exists() and not inner.is_dir():
            raise UserError(f"{inner} is a file, where there must be a folder; remove it")
    make_folder(inner)
    return inner


def _look(folder: Path | str, *, files: bool) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_symlink():
            if files or not os.path.isfile(entry.path):
                raise _refused(Path(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            _look(entry.path, files=files or entry.name == CHECKPOINTS)


def _refused(link: Path) -> UserError:
    return UserError(
        f"{link} is a link, through which files elsewhere would be written; remove it, or put "
        "what it leads to in its place"
    )
