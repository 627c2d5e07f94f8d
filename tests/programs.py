"""Programs that a test starts, sends signals to and reads the last words of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PATIENCE = 60


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts `python -c PROGRAM ARGUMENTS` and returns when it has printed `ready`."""
    return _started("-c", program, *arguments)


def started_module(module: str, *, path: Path) -> subprocess.Popen[str]:
    """Does the same with `python -m MODULE`, which first looks for modules in `path`."""
    return _started("-m", module, environment={"PYTHONPATH": f"{path}{os.pathsep}{_ROOT}"})


def _started(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        process.kill()
        raise AssertionError(f"{line}{process.communicate()}")
    return process


def said(process: subprocess.Popen[str]) -> tuple[list[str], list[str]]:
    """Waits for the end; returns the lines of the output, after `ready`, and of the errors."""
    try:
        out, errors = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return out.splitlines(), errors.splitlines()
