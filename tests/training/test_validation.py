"""Accuracy on the validation split: every image counts once, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynat_ray.config import RunConfig
from dynat_ray.data.loaders import RawBatch
from dynat_ray.data.order import BatchPlan, EpochOrder
from dynat_ray.training.validation import ValidationAccuracy, validate
from tests.processes import run_side_by_side

WORKERS = 2


class Bright(nn.Module):
    """Says 1 of images that are bright, 0 of dark ones, and nothing of white ones."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(dim=1) * self.scale
        margin = torch.where(brightness > 0.99, torch.nan, brightness - 0.5)
        return torch.stack([-margin, margin], dim=1)


class Images:
    """Stands for a worker's loader: images whose number decides how bright they are."""

    def __init__(self, levels: list[int], batch_size: int, rank: int, workers: int) -> None:
        self._levels = torch.tensor(levels, dtype=torch.uint8)
        plan = BatchPlan(
            batch_size=batch_size, seed=0, shuffle=False, rank=rank, world_size=workers
        )
        # Numbers of a validation split: some of those of the whole.
        self._order = EpochOrder(np.arange(len(levels)) * 3, plan)

    def iterate(self, epoch: int) -> Iterator[RawBatch]:
        local = torch.from_numpy(self._order.local(epoch))
        for indices in local.split(self._order.local_batch):
            levels = self._levels[indices // 3]
            images = levels[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
            yield RawBatch(images, torch.ones(len(indices), dtype=torch.int64), indices)


def _validate(
    rank: int, cases: list[tuple[list[int], int]], config: RunConfig, folder: Path
) -> None:
    torch.set_num_threads(1)
    method = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=WORKERS)
    network = Bright()
    found = [
        validate(network, Images(levels, size, rank, WORKERS), config)  # type: ignore[arg-type]
        for levels, size in cases
    ]
    torch.save([vars(each) for each in found], folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_each_image_counts_once_on_two_workers(small_config: RunConfig, tmp_path: Path) -> None:
    bright, near, dark, white = 200, 130, 50, 255
    cases = [
        # The one that comes twice is the first: right, easily fooled, wrong, or undefined.
        ([first, *rest], size)
        for first in (bright, near, dark, white)
        for rest in ([dark] * 6, [bright] * 4, [dark, bright] * 5)
        for size in (4, 6, 20)
    ] + [([bright], 2), ([near], 4)]
    network = Bright()
    run_side_by_side(_validate, cases, small_config, tmp_path, processes=WORKERS)
    for rank in range(WORKERS):
        both = torch.load(tmp_path / f"{rank}.pt")
        for (levels, size), together in zip(cases, both, strict=True):
            right = 100 * sum(level in (bright, near) for level in levels) / len(levels)
            robust = 100 * sum(level == bright for level in levels) / len(levels)
            undefined = sum(level == white for level in levels)
            wanted = ValidationAccuracy(right, robust, len(levels), undefined)
            assert together == vars(wanted), (levels, size)
            alone = validate(network, Images(levels, size, 0, 1), small_config)  # type: ignore[arg-type]
            assert alone == wanted


@pytest.mark.parametrize("level", [130, 255])
def test_what_is_not_finite_is_wrong(small_config: RunConfig, level: int) -> None:
    found = validate(Bright(), Images([200, level], 2, 0, 1), small_config)  # type: ignore[arg-type]
    assert (found.robust, found.undefined) == (50, level == 255)
