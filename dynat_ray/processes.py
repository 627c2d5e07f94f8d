"""Which process of which machine this is, in a form that another process can look up."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_DEAD = ("Z", "X")


def this_place() -> str:
    """Returns where process numbers mean what they mean here.

    Two containers of one machine number their processes apart, also where both have one host name;
    after a restart of the machine the numbers begin anew.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def descendants() -> set[int]:
    """Returns the numbers of the processes that this one and its own have started and that live."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if fields := _stat(folder.name):
            parents[int(folder.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def begin_of(process: int) -> str:
    """Returns when a living process of this place began, in the system's own measure.

    Numbers are given out again; number and begin together are not.

    Args:
        process: Its number.

    Returns:
        Empty if there is none, or one that has ended and is not yet waited for; where the system
        has no `/proc`, a word that is the same for all.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return ""
        except PermissionError:
            pass
        return "alive"
    fields = _stat(process)
    return fields[19] if fields else ""


def _stat(process: int | str) -> list[str]:
    """Returns what the system says of a living process after its name; empty: there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return []
    # The name of the program, in brackets, may hold anything.
    fields = text[text.rindex(")") + 1 :].split()
    return [] if fields[0] in _DEAD else fields
