"""Atomic writes: a file is there complete, or as it was before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Gives a file to write, which takes the place of `file` when it is complete.

    Whoever reads meanwhile, or after a full disk or a kill, finds the one before.
    """
    partial = file.with_name(f"{file.name}.tmp")
    try:
        yield partial
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write_text(file: Path, text: str) -> None:
    """Writes `text`, in UTF-8."""
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")
