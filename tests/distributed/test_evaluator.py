"""Where an evaluation runs when nobody says."""

from __future__ import annotations

import pytest
import torch

from dynat_ray.distributed import cluster as session
from dynat_ray.distributed.evaluator import Workers, default_workers


@pytest.mark.parametrize(
    ("cluster", "here", "workers", "on_ray"),
    [
        (None, 0, 1, False),
        (None, 1, 1, False),
        (None, 4, 4, True),
        (0, 0, 1, False),
        # It may be another node's.
        (1, 0, 1, True),
        (8, 1, 8, True),
    ],
)
def test_default_workers(
    monkeypatch: pytest.MonkeyPatch, cluster: int | None, here: int, workers: int, on_ray: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    if cluster is not None:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
        monkeypatch.setattr(session, "cluster_total", lambda kind: {"GPU": cluster}[kind])
    assert default_workers() == Workers(workers, on_ray)
