"""What a tracker is told of a run, a search or a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

# How something that is tracked ended, as far as this process knows.
Ending = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Tracked:
    """A run, search or comparison.

    Attributes:
        folder: Its own.
        kind: Which of them it is.
        parameters: Its settings by full key.
        parent: Folder of the search or comparison that it is part of; None: of none.
    """

    folder: Path
    kind: Literal["run", "search", "comparison"]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parent: Path | None = None

    @property
    def name(self) -> str:
        """For people."""
        return self.folder.name

    @property
    def group(self) -> str:
        """Name of the search or comparison that it is part of, or is."""
        return (self.parent or self.folder).name


class Tracker(Protocol):
    """Where metrics and files go. What a method raises says that they did not get there."""

    def begin(self, tracked: Tracked, identifier: str, parent: str) -> str:
        """Begins, or goes on with what was begun; returns by which name the tracker knows it.

        It is called again after an error.

        Args:
            tracked: What is tracked.
            identifier: That name, from before a restart; empty: it is new.
            parent: That of the search or comparison that it is part of; empty: of none.
        """
        ...

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Takes in an epoch's metrics; those of an epoch that it has already are left out."""
        ...

    def keep(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """Takes in final results, and the files and folders that were made."""
        ...

    def end(self, ending: Ending) -> None:
        """Says how it ended; what was given before is sent."""
        ...
