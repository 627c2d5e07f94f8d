"""The one error type that means: the user can fix this."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can correct; commands print it as one `error:` line and exit with 2."""


class Stopped(Exception):
    """A signal has ended the command; the message says what is kept."""


def disk_error(error: OSError) -> UserError | None:
    """Returns what to tell the user if `error` means that a disk is full or read-only."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return None
    where = f" ({error.filename})" if error.filename else ""
    return UserError(
        f"nothing more can be written: {error.strerror}{where}; make room, or give another --out, "
        "and run the same command with --resume"
    )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Returns the error for a `name` that is none of `known`, with the nearest valid names.

    Args:
        kind: What the name stands for, such as `"recipe"`.
        name: What the user wrote.
        known: All valid names.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names[:40])}"
    return UserError(f"unknown {kind} '{name}'; {hint}")
