from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from dynat_ray.data import Augmentation, Batch
from dynat_ray.errors import UserError

INDICES = torch.arange(400)
LABELS = INDICES % 4


def images(size: tuple[int, int] = (8, 6), channels: int = 3) -> Tensor:
    """Returns random uint8 images, channels last, without black pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(INDICES), channels, *size)
    random = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)
    return random.contiguous(memory_format=torch.channels_last)


def augment(names: list[str], pixels: Tensor, *, seed: int = 0, epoch: int = 0) -> Batch:
    """Augments all images as one batch."""
    return Augmentation(names, seed)(pixels, LABELS, INDICES, epoch, 4)


def test_nothing_but_scaling() -> None:
    batch = augment([], images())
    assert torch.equal(batch.images, images().float() / 255)
    assert batch.targets is None
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_crop_shifts_every_way_and_pads_with_black() -> None:
    pixels = images()
    padded = np.pad(pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    found = (augment(["crop-2"], pixels).images * 255).round().byte().numpy()
    shifts = []
    for before, after in zip(padded, found, strict=True):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if np.array_equal(before[:, top : top + 8, left : left + 6], after)
        ]
        assert len(matches) == 1
        shifts += matches
    counts = [shifts.count((top, left)) for top in range(5) for left in range(5)]
    assert min(counts) >= 4
    assert max(counts) <= 35


def test_flip_mirrors_half_of_the_images() -> None:
    pixels = images()
    found = (augment(["flip"], pixels).images * 255).round().byte()
    same = (found == pixels).all((1, 2, 3))
    mirrored = (found == pixels.flip(3)).all((1, 2, 3))
    assert torch.all(same ^ mirrored)
    assert 150 < int(mirrored.sum()) < 250


@pytest.mark.parametrize("names", [["crop-2", "flip"], ["crop-3"], ["flip"], []])
def test_a_placement_can_be_undone(names: list[str]) -> None:
    """Only what a crop has cut off can't come back: it is as it was before."""
    augmentation = Augmentation(names, seed=1)
    pixels = images().permute(0, 2, 3, 1)
    placed = augmentation(images(), LABELS, INDICES, 5, 4).images
    placed = (placed * 255).round().byte().permute(0, 2, 3, 1)
    placement = augmentation.placement(INDICES, 5)
    assert torch.equal(placement.apply(pixels), placed)
    before = torch.zeros_like(pixels)
    found = placement.undo(placed, before)
    cut_off = found == 0
    assert torch.equal(found[~cut_off], pixels[~cut_off])
    kept = (~cut_off).float().mean()
    # A mean shift of n (n + 1) / (2 n + 1) pixels in rows of 8 and 6.
    reach = max([int(name[5:]) for name in names if name.startswith("crop")], default=0)
    shift = reach * (reach + 1) / (2 * reach + 1)
    assert float(kept) == pytest.approx((1 - shift / 8) * (1 - shift / 6), abs=0.03)
    assert torch.equal(placement.undo(placed, before + 7)[cut_off], (before + 7)[cut_off])


@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_blackens_one_square(channels: int) -> None:
    found = augment(["cutout-4"], images((12, 12), channels)).images
    holes = (found == 0).all(1)
    assert torch.equal(holes, (found == 0).any(1))
    for hole in holes:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        height = int(rows.max() - rows.min()) + 1
        width = int(columns.max() - columns.min()) + 1
        assert int(hole.sum()) == height * width
        assert 2 <= height <= 4
        assert 2 <= width <= 4
    assert int((holes.sum((1, 2)) == 16).sum()) > 150


def test_cutmix_mixes_labels_by_area() -> None:
    # Every image has its own grey level, so that its pixels tell where they come from.
    levels = torch.arange(len(INDICES)) % 251
    pixels = levels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 16, 16)
    batch = augment(["cutmix"], pixels)
    assert batch.targets is not None
    assert torch.allclose(batch.targets.sum(1), torch.ones(len(INDICES)))
    found = (batch.images[:, 0] * 255).round().long()
    own = (found == levels[:, None, None]).float().mean((1, 2))
    for number in range(len(INDICES)):
        others = found[number][found[number] != levels[number]]
        assert len(others.unique()) <= 1
        candidates = LABELS[levels == others[0]] if len(others) else LABELS[number : number + 1]
        expected = [
            torch.nn.functional.one_hot(LABELS[number], 4) * own[number]
            + torch.nn.functional.one_hot(other, 4) * (1 - own[number])
            for other in candidates
        ]
        assert any(torch.allclose(batch.targets[number], each) for each in expected)
    # Half each but for boxes that the border cuts off.
    assert 0.5 < float(own.mean()) < 0.7
    assert float(own.std()) > 0.15


def test_cutmix_alpha_narrows_the_areas() -> None:
    wide, narrow = augment(["cutmix"], images()), augment(["cutmix-50"], images())
    assert wide.targets is not None
    assert narrow.targets is not None
    assert narrow.targets.max(1).values.mean() < wide.targets.max(1).values.mean()


def test_cutmix_of_a_single_image() -> None:
    batch = Augmentation(["cutmix"], 0)(images()[:1], LABELS[:1], INDICES[:1], 0, 4)
    assert torch.equal(batch.images, images()[:1].float() / 255)
    assert batch.targets is not None
    assert torch.allclose(batch.targets, torch.tensor([[1.0, 0, 0, 0]]))


def test_a_resized_crop_is_the_loader_s() -> None:
    assert torch.equal(augment(["resized-crop"], images()).images, augment([], images()).images)
    assert Augmentation(["resized-crop", "flip"], 0).unplaced == "resized-crop"


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_changes_images_and_no_global_state(channels: int) -> None:
    pixels = images((24, 24), channels)[:40]
    before = random.getstate(), np.random.get_state()[2]  # noqa: NPY002
    augmentation = Augmentation(["randaugment"], 0)
    first = augmentation(pixels, LABELS[:40], INDICES[:40], 0, 4).images
    assert (random.getstate(), np.random.get_state()[2]) == before  # noqa: NPY002
    second = augmentation(pixels[20:], LABELS[20:40], INDICES[20:40], 0, 4).images
    assert first.shape == pixels.shape
    assert torch.equal(first[20:], second)
    assert not torch.equal(first, pixels.float() / 255)


def test_the_strongest_randaugment_blackens_no_image() -> None:
    # timm's posterize keeps no bit of an image then, which Pillow refuses from version 13 on.
    pixels = images((24, 24), 3).clamp(min=128)
    indices = torch.arange(len(pixels))
    found = Augmentation(["randaugment-10"], 0)(pixels, LABELS, indices, 0, 4).images
    assert float(found.flatten(1).amax(dim=1).min()) > 0


NAMES = ["crop-2", "flip", "cutout-3"]


def test_pixels_depend_on_seed_epoch_and_index_alone() -> None:
    pixels = images()
    whole = augment(NAMES, pixels, seed=1, epoch=2).images
    shuffled = torch.randperm(len(INDICES), generator=torch.Generator().manual_seed(1))[:50]
    part = Augmentation(NAMES, 1)(pixels[shuffled], LABELS[shuffled], INDICES[shuffled], 2, 4)
    assert torch.equal(part.images, whole[shuffled])
    assert not torch.equal(augment(NAMES, pixels, seed=1, epoch=3).images, whole)
    assert not torch.equal(augment(NAMES, pixels, seed=2, epoch=2).images, whole)


def test_memory_format_does_not_matter() -> None:
    names = [*NAMES, "cutmix"]
    one = augment(names, images()).images
    other = augment(names, images().contiguous()).images
    assert other.is_contiguous()
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("flop", "unknown augmentation .* 'flop'; did you mean flip"),
        ("flip-3", "unknown augmentation"),
        ("crop-0", "crop takes a whole number"),
        ("crop-1.5", "crop takes a whole number"),
        ("cutout-nan", "cutout takes"),
        ("cutmix-0", "cutmix takes more than 0"),
        ("randaugment-99", "a whole magnitude"),
        ("randaugment-7.5", "a whole magnitude"),
    ],
)
def test_wrong_names(name: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        Augmentation([name], 0)


def test_a_name_twice() -> None:
    with pytest.raises(UserError, match="names 'crop' twice"):
        Augmentation(["crop", "crop-2"], 0)
