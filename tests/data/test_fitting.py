"""Random parts of images: where they lie, how they are resized, what they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dynat_ray.data.fitting import crop_randomly
from dynat_ray.keyed_random import combine

INDICES = torch.arange(400)


def crop(images: Tensor, *, epoch: int = 0, seed: int = 0, size: tuple[int, int]) -> Tensor:
    """Cuts a part out of whole images that are numbered from 0."""
    sizes = torch.tensor(images.shape[2:]).expand(len(images), 2)
    return crop_randomly(images, sizes, combine(seed, epoch, INDICES[: len(images)]), size)


def ramps(height: int, width: int, *, down: bool = False) -> Tensor:
    """Returns 400 images whose pixels are the number of their column, or row."""
    levels = torch.arange(height if down else width, dtype=torch.uint8)
    levels = levels[:, None] if down else levels[None]
    return levels.expand(len(INDICES), 1, height, width).contiguous()


def test_a_random_part_zooms_into_the_image() -> None:
    ramp = torch.linspace(0, 255, 64).round().to(torch.uint8)
    pixels = ramp.expand(len(INDICES), 1, 64, 64).contiguous()
    found = crop(pixels, size=(64, 64)).float() / 255
    span = found[:, 0, 32, -1] - found[:, 0, 32, 0]
    assert found.shape == pixels.shape
    assert torch.all(found[:, 0, 0] - found[:, 0, -1] < 1e-5)
    assert torch.all((span > 0.15) & (span <= 1))
    assert float(span.std()) > 0.1


def test_parts_have_the_areas_and_shapes_of_torchvision() -> None:
    # The first and last of 100 points tell where a part of a ramp begins and ends.
    ends = [
        crop(ramps(200, 150, down=down), size=(100, 100)).float().squeeze(1)[:, [0, -1], [0, -1]]
        for down in (False, True)
    ]
    width, height = ((each[:, 1] - each[:, 0]) / 0.99 for each in ends)
    area, shape = width * height / (200 * 150), width / height
    assert 0.07 < float(area.min()) < 0.1
    assert 0.85 < float(area.max()) < 1.02
    # Where a side was cut off, the shape may be another.
    inside = (width < 147) & (height < 197)
    assert int(inside.sum()) > 250
    assert 0.72 < float(shape[inside].min()) < 0.8
    assert 1.25 < float(shape[inside].max()) < 1.38
    for each, side in zip(ends, (150, 200), strict=True):
        assert float(each[:, 0].min()) < 2
        assert float(each[:, 1].max()) > side - 3


def test_large_images_are_averaged() -> None:
    # A chequerboard of single pixels is grey from afar, whichever part of it one sees.
    board = (torch.arange(240)[:, None] + torch.arange(240)).remainder(2).mul(255).to(torch.uint8)
    found = crop(board.expand(40, 1, 240, 240).contiguous(), size=(24, 24)).float()
    assert float((found - 127.5).abs().max()) < 40


def test_nothing_comes_from_beyond_a_small_image() -> None:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (40, 3, 20, 30), dtype=torch.uint8, generator=generator)
    keys = combine(0, 0, INDICES[:40])
    sizes = torch.tensor([20, 30]).expand(40, 2)
    alone = crop_randomly(small, sizes, keys, (40, 40))
    canvas = torch.zeros(40, 3, 40, 40, dtype=torch.uint8)
    canvas[:, :, :20, :30] = small
    framed = crop_randomly(canvas, sizes, keys, (40, 40))
    assert torch.equal(alone, framed)


@pytest.mark.parametrize("size", [(8, 6), (3, 5)])
def test_parts_depend_on_seed_epoch_and_index_alone(size: tuple[int, int]) -> None:
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (len(INDICES), 3, 8, 6), dtype=np.uint8)
    )
    whole = crop(pixels, seed=1, epoch=2, size=size)
    chosen = torch.randperm(len(INDICES), generator=torch.Generator().manual_seed(1))[:50]
    sizes = torch.tensor([8, 6]).expand(50, 2)
    part = crop_randomly(pixels[chosen], sizes, combine(1, 2, chosen), size)
    assert torch.equal(part, whole[chosen])
    assert not torch.equal(crop(pixels, seed=1, epoch=3, size=size), whole)
    assert not torch.equal(crop(pixels, seed=2, epoch=2, size=size), whole)
