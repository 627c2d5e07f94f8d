"""`environment.json`: with which versions, on which machine and by which command a run was made."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.command_line import program_words
from dynat_ray.hardware import processor_name
from dynat_ray.storage.json_file import read_json

_FILE = "environment.json"
_PACKAGES = ("dynat-ray", "torch", "torchvision", "timm", "ray", "ffcv", "numpy", "pyautoattack")


def write_environment(folder: Path, facts: dict[str, Any], command: str = "") -> None:
    """Writes `environment.json`: versions, this machine's hardware, commit, command, and `facts`.

    Args:
        folder: The run's folder.
        facts: More to write.
        command: What the run is part of, if this process is not the user's command: the arguments
            of Ray's own processes say nothing, and may hold a password.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    # What was added while the run went on holds until it is measured again.
    environment = read_environment(folder) | {
        "versions": versions,
        "hardware": {
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "gpus": [
                torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
            ],
        },
        "git_commit": _git_commit(),
        "command": command or shlex.join([*program_words(), *sys.argv[1:]]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
    }
    atomic_write_text(folder / _FILE, json.dumps(environment, indent=2) + "\n")


def add_to_environment(folder: Path, facts: dict[str, Any]) -> None:
    """Adds to `environment.json` what shows only while a run goes on."""
    environment = read_environment(folder) | facts
    atomic_write_text(folder / _FILE, json.dumps(environment, indent=2) + "\n")


def read_environment(folder: Path) -> dict[str, Any]:
    """Returns what `environment.json` holds; empty if there is none that can be read."""
    return read_json(folder / _FILE)


def _git_commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
