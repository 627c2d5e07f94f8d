from __future__ import annotations

import multiprocessing

import pytest

from dynat_ray.benchmarks import turns


@pytest.fixture
def forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own begin with PyTorch imported, and with this one's first environment."""
    monkeypatch.setattr(turns, "_PROCESSES", multiprocessing.get_context("forkserver"))
