"""A machine whose power fails while `atomic_files` writes."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from dynat_ray import atomic_files

_CHANGES = ("open", "write", "fsync", "ftruncate", "replace", "rename", "unlink", "mkdir")


class PowerFailed(BaseException):
    """Nothing that the process would have done after this is done."""


class FailingDisk:
    """Stands for `os` in `atomic_files`; the power fails before one of its operations.

    What was written and not yet brought to the disk is cut: of each file a part is left.

    Args:
        operation: Before which, from 1.
        left: The part of files that is left, from 0 to 1.
    """

    def __init__(self, operation: int, left: float = 0.0) -> None:
        self._operation, self._left = operation, left
        # Path of each open file, and how much of it is safe.
        self._written: dict[int, tuple[str, int]] = {}
        self.done = 0
        self.failed = False
        # Several threads write, and the power fails for all of them at once.
        self._one_at_a_time = threading.RLock()

    def install(self, patch: pytest.MonkeyPatch) -> FailingDisk:
        """Takes the place of `os` for what writes; returns itself."""
        patch.setattr(atomic_files, "os", self)
        patch.setattr(atomic_files, "shutil", self)
        exchange = atomic_files._exchange

        def counted(one: Path, other: Path) -> bool:
            with self._one_at_a_time:
                self._before("exchange")
                return exchange(one, other)

        patch.setattr(atomic_files, "_exchange", counted)
        return self

    def __getattr__(self, name: str) -> Any:
        if name not in _CHANGES:
            return getattr(os, name)

        def operation(*given: Any, **named: Any) -> Any:
            with self._one_at_a_time:
                self._before(name, *given)
                result = getattr(os, name)(*given, **named)
                if name == "open" and given[1] & (os.O_WRONLY | os.O_RDWR):
                    self._written[result] = (str(given[0]), os.fstat(result).st_size)
                elif name == "fsync":
                    self._written.pop(given[0], None)
                return result

        return operation

    def rmtree(self, folder: Path, **named: Any) -> None:
        with self._one_at_a_time:
            self._before("rmtree")
            shutil.rmtree(folder, **named)

    def _before(self, name: str, *given: Any) -> None:
        if self.failed:
            raise PowerFailed
        self.done += 1
        if self.done < self._operation:
            return
        self.failed = True
        if name == "write":
            os.write(given[0], given[1])
        for path, safe in self._written.values():
            if Path(path).exists():
                lost = Path(path).stat().st_size - safe
                os.truncate(path, safe + int(self._left * lost))
        raise PowerFailed
