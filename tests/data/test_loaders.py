"""Batches: which images they hold, for either loader and any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.data import load_split
from dynat_ray.data import readers as readers_module
from dynat_ray.data.stored import StoredImages, read_stored
from dynat_ray.errors import UserError
from tests.data.loading import KINDS, batches, compile_nothing, make


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_labels_and_indices_belong_together(kind: str, colour: Path) -> None:
    images, labels = load_split(colour, "train")
    loader = make(colour, kind)
    found = batches(loader)
    assert loader.kind == kind
    assert loader.steps == len(found) == 4
    assert loader.global_sizes == [len(batch.images) for batch in found] == [16, 16, 16, 2]
    for batch in found:
        assert torch.equal(batch.images, images[batch.indices])
        assert torch.equal(batch.labels, labels[batch.indices])
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    seen = torch.cat([batch.indices for batch in found])
    assert sorted(seen.tolist()) == list(range(50))


@pytest.mark.parametrize("kind", KINDS)
def test_grey_images_have_one_channel(kind: str, digits: Path) -> None:
    images, _ = load_split(digits, "train")
    for batch in batches(make(digits, kind, batch_size=500)):
        assert torch.equal(batch.images, images[batch.indices])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_the_same_global_batches(
    kind: str, world_size: int, colour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # That pixels come compiled as well is tested above.
    compile_nothing(monkeypatch)
    alone = batches(make(colour, "memory"), epoch=5)
    shares = [
        batches(make(colour, kind, rank=rank, world_size=world_size), epoch=5)
        for rank in range(world_size)
    ]
    for step, whole in enumerate(alone):
        for rank, share in enumerate(shares):
            assert len(share) == len(alone)
            expected = whole.indices[rank::world_size]
            found = share[step].indices[: len(expected)]
            assert torch.equal(found, expected)
            assert torch.equal(share[step].images[: len(expected)], whole.images[rank::world_size])


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_can_start_in_its_middle(kind: str, colour: Path) -> None:
    loader = make(colour, kind)
    whole = list(loader.iterate(1))
    rest = batches(loader, 1, start_step=2)
    assert [batch.indices.tolist() for batch in rest] == [b.indices.tolist() for b in whole[2:]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(rest, whole[2:], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_batches_stay_as_they_are_while_others_are_read(kind: str, colour: Path) -> None:
    images, _ = load_split(colour, "train")
    kept = batches(make(colour, kind, batch_size=2))
    assert len(kept) == 25
    assert all(torch.equal(batch.images, images[batch.indices]) for batch in kept)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_smaller_than_a_batch(
    kind: str, colour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_nothing(monkeypatch)
    chosen = np.array([40, 7, 9])
    (batch,) = batches(make(colour, kind, indices=chosen, shuffle=False))
    images, labels = load_split(colour, "train")
    assert batch.indices.tolist() == [40, 7, 9]
    assert torch.equal(batch.images, images[[40, 7, 9]])
    assert torch.equal(batch.labels, labels[[40, 7, 9]])


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_an_epoch_early_does_no_harm(kind: str, colour: Path) -> None:
    loader = make(colour, kind, batch_size=2)
    for epoch in range(3):
        next(loader.iterate(epoch))
    assert len(batches(loader, 3)) == 25


@pytest.mark.parametrize("kind", KINDS)
def test_image_size_resizes(kind: str, colour: Path) -> None:
    resized = batches(make(colour, kind, image_size=5, shuffle=False))
    assert resized[0].images.shape == (16, 3, 5, 5)
    expected, _ = load_split(colour, "train", image_size=5)
    assert torch.equal(resized[0].images, expected[:16])


@pytest.mark.parametrize("kind", KINDS)
def test_balance(kind: str, colour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_nothing(monkeypatch)
    few = np.concatenate([np.arange(0, 48, 3), [1, 2]])
    found = batches(make(colour, kind, indices=few, balance=True))
    assert torch.cat([batch.labels for batch in found]).bincount().tolist() == [6, 6, 6]


def test_only_the_images_in_use_are_decoded(colour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def note(*arguments: object, **options: object) -> StoredImages:
        read.append(read_stored(*arguments, **options))  # type: ignore[arg-type]
        return read[-1]

    monkeypatch.setattr(readers_module, "read_stored", note)
    batches(make(colour, "memory", indices=np.array([40, 7, 9])))
    assert [len(stored.images) for stored in read] == [3]


def test_auto_takes_memory_where_ffcv_does_not_import(
    colour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "ffcv_problem", lambda: "no such library")
    assert make(colour, "auto").kind == "memory"
    with pytest.raises(UserError, match="does not import .no such library"):
        make(colour, "ffcv")
