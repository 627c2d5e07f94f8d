"""How this process, as a command, was called."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path


def program_words() -> list[str]:
    """Returns how this command is called, without its arguments: `python -m dynat_ray.train`."""
    program = Path(sys.argv[0])
    if program.parent.name == "dynat_ray":
        return ["python", "-m", f"dynat_ray.{program.stem}"]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["python", "-m", spec.name] if spec else ["python", sys.argv[0]]


def line_with(options: Sequence[str]) -> str:
    """Returns this command's line with these options (`--name`, its value, `--resume`) too."""
    given = sys.argv[1:]
    more: list[str] = []
    adds = False
    for word in options:
        if word.startswith("--"):
            adds = not any(each == word or each.startswith(f"{word}=") for each in given)
        if adds:
            more.append(word)
    return shlex.join([*program_words(), *given, *more])
