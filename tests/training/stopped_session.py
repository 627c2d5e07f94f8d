"""A session whose worker dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dynat_ray.training.session import LocalSession


class Stopped(Exception):
    """Stands for a worker that dies."""


class StopsAfterReports(LocalSession):
    """Dies once it has made so many reports."""

    def __init__(self, folder: Path, reports: int) -> None:
        super().__init__(folder, torch.device("cpu"))
        self.left = reports

    def report(self, metrics: Any, name: str, folder: Path | None, *, wait: bool = False) -> None:
        super().report(metrics, name, folder, wait=wait)
        self.left -= 1
        if self.left == 0:
            raise Stopped
