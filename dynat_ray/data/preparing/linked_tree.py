"""Walking folders with links in them, on a disk or inside an archive.

Links are followed, but for those that lead into a folder above themselves: a walk through one of
them has no end, and makes images of all classes images of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal, NamedTuple, Protocol

from dynat_ray.errors import UserError

_MOST_FOLDERS = 2**20
_NOT_IMAGES = frozenset(
    {
        *("__MACOSX", "Icon\r", "Thumbs.db", "desktop.ini", "@eaDir", "lost+found"),
        *("$RECYCLE.BIN", "System Volume Information"),
    }
)
"""What operating systems and file servers leave in folders: thumbnails, settings, bins."""

Kind = Literal["file", "folder", "link", "other"]


class Entry(NamedTuple):
    """What lies in a folder.

    Attributes:
        name: Its name there.
        kind: What it is; `other` is what can't hold an image, such as a named pipe.
        problem: What it is in words, if it is `other`.
    """

    name: str
    kind: Kind
    problem: str = ""


class Found(NamedTuple):
    """A file that a walk came to.

    Attributes:
        path: The way there from the root, through links.
        real: Where it lies, if links lead there; None: at `path`.
        problem: Why it can't be read; empty: it may be.
    """

    path: PurePosixPath
    real: PurePosixPath | None = None
    problem: str = ""


class Tree(Protocol):
    """Folders that can be listed."""

    def entries(self, folder: PurePosixPath) -> list[Entry]:
        """Returns what lies in a folder, which is none that only a link leads to."""

    def follow(self, link: PurePosixPath) -> tuple[PurePosixPath, Kind, str]:
        """Returns where a link leads (no link any more), what is there, and what is wrong."""


class _Visit(NamedTuple):
    """A folder to look into: the way there, where it lies, and what lies above on that way."""

    path: PurePosixPath
    real: PurePosixPath
    above: tuple[PurePosixPath, ...]
    linked: bool


def walk(tree: Tree, root: PurePosixPath, shown: str) -> Iterator[Found | PurePosixPath]:
    """Yields each file below a folder, and the path alone of what is hidden.

    Args:
        tree: Where the folder is.
        root: Where it lies; no links lead there.
        shown: What to call it in errors.

    Raises:
        UserError: A link leads into a folder above, or there are too many folders.
    """
    waiting = [_Visit(PurePosixPath(), root, (), False)]
    visited = 0
    while waiting:
        here = waiting.pop()
        visited += 1
        if visited > _MOST_FOLDERS:
            raise UserError(f"{shown} has over {_MOST_FOLDERS:,} folders; do its links go round?")
        inner = []
        for name, kind, problem in sorted(tree.entries(here.real)):
            path, real = here.path / name, here.real / name
            linked = here.linked
            if is_hidden(name):
                yield path
                continue
            if kind == "link":
                real, kind, problem = tree.follow(real)
                linked = True
            if kind == "folder":
                if linked and _is_above(real, here):
                    raise UserError(
                        f"the link {shown}/{path} leads into a folder above itself, from where "
                        "images of other classes would be taken for its own; remove that link"
                    )
                inner.append(_Visit(path, real, (*here.above, here.real), linked))
            else:
                yield Found(path, real if linked else None, problem)
        waiting += reversed(inner)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder name is none of the user's images."""
    return name.startswith(".") or name in _NOT_IMAGES


def _is_above(target: PurePosixPath, here: _Visit) -> bool:
    return target in here.above or here.real.is_relative_to(target)
