"""Where the links inside of an archive lead: to its own files and folders, or to nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from dynat_ray.data.preparing.linked_tree import Entry, Kind

_MOST_HOPS = 40
"""Links one after the other, as Linux has it."""


class ArchiveLink(NamedTuple):
    """A link.

    Attributes:
        target: Where it leads, as the archive says.
        hard: Whether that is seen from the archive's root and not from the link's folder.
    """

    target: PurePosixPath
    hard: bool


class ArchiveTree:
    """The folders of an archive; a `Tree`."""

    def __init__(
        self, files: Collection[PurePosixPath], links: Mapping[PurePosixPath, ArchiveLink]
    ) -> None:
        """Takes the archive's files and its links, by where they are."""
        self._files = files
        self._links = links
        self._folders: dict[PurePosixPath, dict[str, Entry]] = defaultdict(dict)
        self._add(files, "file")
        self._add(links, "link")

    def entries(self, folder: PurePosixPath) -> list[Entry]:
        """See `Tree`."""
        return list(self._folders[folder].values())

    def follow(self, link: PurePosixPath) -> tuple[PurePosixPath, Kind, str]:
        """See `Tree`. What leads out of the archive or to nothing is of the kind `other`."""
        real = self._resolve(link)
        if real is not None and real in self._files:
            return real, "file", ""
        if real is not None and real in self._folders:
            return real, "folder", ""
        return link, "other", "leads out of the archive, or to nothing in it"

    def add_file(self, path: PurePosixPath) -> None:
        """Makes what was a link a file."""
        self._folders[path.parent][path.name] = Entry(path.name, "file")

    def _add(self, paths: Iterable[PurePosixPath], kind: Kind) -> None:
        for path in paths:
            self._folders[path.parent][path.name] = Entry(path.name, kind)
            for folder in path.parents[:-1]:
                above = self._folders[folder.parent]
                if folder.name in above:
                    break
                above[folder.name] = Entry(folder.name, "folder")

    def _resolve(self, path: PurePosixPath) -> PurePosixPath | None:
        """Returns a path without links in it; None where they lead out or round."""
        ahead = list(reversed(path.parts))
        here = PurePosixPath()
        hops = 0
        while ahead:
            part = ahead.pop()
            if part == "..":
                if not here.parts:
                    return None
                here = here.parent
                continue
            link = self._links.get(here / part)
            if link is None:
                here /= part
                continue
            hops += 1
            if hops > _MOST_HOPS or link.target.is_absolute():
                return None
            if link.hard:
                here = PurePosixPath()
            ahead += reversed(link.target.parts)
        return here
