"""Attacks that go on where they ended an epoch ago."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.data import Augmentation, Batch, load_info
from dynat_ray.errors import UserError
from dynat_ray.methods import MethodLoss, Prepared
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training import carrying
from dynat_ray.training.carrying import CarriedPerturbations, check_carrying
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import check_run
from dynat_ray.training.step import StepPart
from dynat_ray.training.trainer import train
from tests.small_run import DEEPER

EPS = 0.1
CPU = torch.device("cpu")
INDICES = torch.tensor([3, 0, 41])


def carried(config: RunConfig, names: list[str], epochs: int = 2) -> CarriedPerturbations:
    settings = {"attack.carry_epochs": epochs, "data.augment": names, "threat.eps": EPS}
    config = override(config, settings)
    info = load_info(config.data.path)
    return CarriedPerturbations(config, info, Augmentation(names, config.train.seed), CPU)


def keep(memory: CarriedPerturbations, change: torch.Tensor, indices: torch.Tensor) -> None:
    images = torch.full_like(change, 0.5)
    batch = Batch(images, torch.zeros_like(indices), indices)
    memory.write([StepPart(Prepared(batch, images + change), MethodLoss(torch.zeros(())))])


def read(memory: CarriedPerturbations, indices: torch.Tensor) -> torch.Tensor:
    batch = Batch(torch.zeros(len(indices), 1, 8, 8), torch.zeros_like(indices), indices)
    found = memory.added_to(batch).carried
    assert found is not None
    return found


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_leaves_the_change_before(small_config: RunConfig, bad: float) -> None:
    memory = carried(small_config, [])
    memory.start_epoch(0)
    change = torch.full((3, 1, 8, 8), EPS)
    keep(memory, change, INDICES)
    broken = torch.zeros_like(change)
    broken[1, 0, 2, 3] = bad
    keep(memory, broken, INDICES)
    memory.start_epoch(1)
    change[[0, 2]] = 0
    torch.testing.assert_close(read(memory, INDICES), change, atol=EPS / 127 * 1.01, rtol=0)


def test_a_change_comes_back_in_the_next_epoch_and_not_after_the_last(
    small_config: RunConfig,
) -> None:
    memory = carried(small_config, [])
    memory.start_epoch(0)
    assert not read(memory, INDICES).any()
    change = (torch.rand(3, 1, 8, 8) * 2 - 1) * EPS
    keep(memory, change, INDICES)
    memory.start_epoch(1)
    # Kept in 63 steps of eps.
    torch.testing.assert_close(read(memory, INDICES), change, atol=EPS / 127 * 1.01, rtol=0)
    assert not read(memory, torch.tensor([1, 2])).any()
    memory.start_epoch(2)
    assert not read(memory, INDICES).any()


def test_a_change_follows_the_image(small_config: RunConfig) -> None:
    """A pixel of the image that is changed is the same pixel an epoch later, wherever it lies."""
    names = ["crop-2", "flip"]
    memory = carried(small_config, names)
    indices = torch.arange(100)
    augmentation = Augmentation(names, small_config.train.seed)
    pixels = torch.randint(1, 256, (100, 1, 8, 8), dtype=torch.uint8)
    places = []
    for epoch in (0, 1):
        memory.start_epoch(epoch)
        images = augmentation(pixels, torch.zeros_like(indices), indices, epoch, 10).images
        # Every pixel that is bright is made darker, so that the change tells which ones are.
        places.append(images > 0.5)
        if epoch == 0:
            keep(memory, -EPS * places[0].float(), indices)
    found = read(memory, indices) < 0
    assert not (found & ~places[1]).any()
    assert 0.5 < float(found.sum() / places[1].sum()) < 1


def test_extra_images_are_not_remembered(small_config: RunConfig) -> None:
    extra = {"data.extra_path": small_config.data.path, "data.extra_fraction": 0.5}
    memory = carried(override(small_config, extra), [])
    samples = load_info(small_config.data.path).counts["train"]
    indices = torch.tensor([2, samples, samples + 5])
    memory.start_epoch(0)
    keep(memory, torch.full((3, 1, 8, 8), EPS), indices)
    memory.start_epoch(1)
    assert read(memory, indices).flatten(1).any(dim=1).tolist() == [True, False, False]
    assert not read(memory, torch.tensor([0])).any()


def test_of_two_workers_that_write_the_same_image_the_last_counts(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This one is the first of two; the other has written images 1 (as this one has) and 2."""
    memory = carried(small_config, [])
    memory.start_epoch(0)
    keep(memory, torch.full((2, 1, 8, 8), EPS), torch.tensor([0, 1]))
    theirs = torch.zeros(len(memory._levels), dtype=torch.long)
    theirs[1:3] = 2
    monkeypatch.setattr(carrying, "world_size", lambda: 2)
    monkeypatch.setattr(carrying, "max_over_workers", lambda own: torch.maximum(own, theirs))

    def add_theirs(own: torch.Tensor) -> torch.Tensor:
        own = own.clone()
        own[1:3] += round(-EPS / memory._unit)
        return own

    monkeypatch.setattr(carrying, "sum_over_workers", add_theirs)
    memory.start_epoch(1)
    found = read(memory, torch.arange(4)).flatten(1)
    expected = torch.tensor([EPS, -EPS, -EPS, 0.0])[:, None].expand(4, 64)
    torch.testing.assert_close(found, expected, atol=EPS / 60, rtol=0)


def test_one_step_carried_along_finds_more_than_one_step(
    small_config: RunConfig, tmp_path: Path
) -> None:
    """Attacks of an eighth of eps reach much further when they add up over the epochs."""
    settings = DEEPER | {
        "attack.steps": 1,
        "attack.step_size": small_config.threat.eps / 8,
        "attack.random_start": "none",
        "method.name": "pgd_at",
        "train.epochs": 6,
        "optim.lr": 0.02,
    }
    accuracy = {}
    for epochs in (0, 10):
        config = override(small_config, settings | {"attack.carry_epochs": epochs})
        train(config, LocalSession(tmp_path / str(epochs), CPU))
        lines = read_metrics(tmp_path / str(epochs) / "metrics.jsonl")
        accuracy[epochs] = [line["train_robust_accuracy"] for line in lines]
    assert accuracy[0][0] == accuracy[10][0]
    assert accuracy[10][-1] < accuracy[0][-1] - 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"data.augment": ["flip", "cutmix"]}, "not 'cutmix'"),
        ({"data.augment": ["resized-crop"]}, "not 'resized-crop'"),
        ({"data.balance": True}, "data.balance"),
    ],
)
def test_what_can_not_be_followed_is_said_before_training(
    small_config: RunConfig, settings: dict[str, Any], words: str
) -> None:
    config = override(small_config, settings | {"attack.carry_epochs": 5})
    with pytest.raises(UserError, match=words):
        check_run(config, load_info(config.data.path))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": None}, "set data.image_size"),
        ({"size": (224, 224), "counts": {"train": 1_281_167}}, "would keep 60 GiB"),
    ],
)
def test_sets_that_can_not_be_kept(
    small_config: RunConfig, changes: dict[str, Any], words: str
) -> None:
    info = replace(load_info(small_config.data.path), **changes)
    with pytest.raises(UserError, match=words):
        check_carrying(small_config, info, Augmentation([], seed=0))
