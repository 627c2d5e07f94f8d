"""Programs that a test starts, sends signals to and reads the last words of."""

from __future__ import annotations

import subprocess
import sys

_PATIENCE = 60


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts `python -c PROGRAM ARGUMENTS` and returns when it has printed `ready`."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
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
