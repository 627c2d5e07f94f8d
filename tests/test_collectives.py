"""What workers say to one another, and how often."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from dynat_ray import collectives
from tests.processes import run_side_by_side

WORKERS = 512


def test_sizes_travel_as_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def gather_sizes(sizes: Tensor, own: Tensor) -> None:
        asked.append("sizes")
        sizes.fill_(int(own))

    def gather(parts: list[Tensor], own: Tensor) -> None:
        asked.append("rows")
        for part in parts:
            part.copy_(own)

    monkeypatch.setattr(collectives, "_in_group", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: WORKERS)
    monkeypatch.setattr(dist, "all_gather_into_tensor", gather_sizes)
    monkeypatch.setattr(dist, "all_gather", gather)
    assert collectives.gather_over_workers(torch.ones(3, 2)).shape == (3 * WORKERS, 2)
    assert asked == ["sizes", "rows"]


def _gather(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    rows = collectives.gather_over_workers(torch.full((2 * rank, 1), float(rank)))
    assert rows.tolist() == [[1.0], [1.0]]
    assert collectives.gather_number(torch.tensor(5 + rank)) == [5, 6]
    # The first sends two rows to itself and three to the other, which sends nothing.
    sent, received = ([2, 3], [2, 0]) if rank == 0 else ([0, 0], [3, 0])
    images = torch.arange(10.0).view(5, 2, 1)[: sum(sent)]
    columns = [images, images.flatten(1).sum(dim=1).long(), images[:, 0, 0] > 3]
    arrived = collectives.exchange_rows(columns, sent, received)
    own = slice(0, 2) if rank == 0 else slice(2, 5)
    assert arrived[0].equal(torch.arange(10.0).view(5, 2, 1)[own])
    assert arrived[1].tolist() == [1, 5, 9, 13, 17][own]
    assert arrived[2].tolist() == [False, False, True, True, True][own]
    dist.destroy_process_group()


def test_rows_of_unequal_number(tmp_path: object) -> None:
    run_side_by_side(_gather, f"{tmp_path}/meeting", processes=2)
