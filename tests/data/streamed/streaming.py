"""Readers of sets in a store whose images are fetched one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynat_ray.data import load_split, store_copy
from dynat_ray.data.loaders import Loader
from dynat_ray.data.preparing import part_sending
from tests.data.loading import make

IMAGES, SIDE = 48, 16
SIZE = 3 * SIDE * SIDE
# A part of the beton that holds images; the first and the last one hold none.
PART = f"train-00003-of-{IMAGES // 8 + 2:05d}.beton"
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def be_small_and_quick(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Eight images a part, each image a request of its own, no pauses, a cache of its own."""
    monkeypatch.setattr(part_sending, "_PART_BYTES", 8 * SIZE)
    monkeypatch.setattr("dynat_ray.data.batches_ahead._LARGEST_GAP", -1)
    monkeypatch.setattr("dynat_ray.object_store._PAUSES", (0.0, 0.0))
    monkeypatch.setattr("dynat_ray.data.cache_room._SPARE", 0)
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(cache))


@contextmanager
def no_threads_left() -> Iterator[None]:
    """Fails if threads that fetch or decode outlive its context."""

    def ours() -> set[threading.Thread]:
        kinds = [(each, f"{type(each).__name__} {each.name}") for each in threading.enumerate()]
        return {each for each, kind in kinds if "connection" in kind or "Epoch" in kind}

    before = ours()
    yield
    left = ours() - before
    for thread in left:
        thread.join(20)  # Some were in the middle of a request.
    assert not any(thread.is_alive() for thread in left)


def made_source(folder: Path, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(folder / f"made-{seed}.npz", image=pixels, label=np.arange(IMAGES) % 3)
    return f"npz:{folder / f'made-{seed}.npz'}"


def streamed(address: str, **options: Any) -> Loader:
    return make(address, "auto", streamed=True, **options)  # type: ignore[arg-type]


def read(loader: Loader, *epochs: int, start: int = 0) -> Batches:
    return [
        (batch.images.clone(), batch.indices)
        for epoch in epochs
        for batch in loader.iterate(epoch, start)
    ]


def images_of(folder: Path) -> torch.Tensor:
    return load_split(folder, "train")[0]


def assert_same(one: Batches, other: Batches) -> None:
    assert len(one) == len(other) > 0
    for ours, theirs in zip(one, other, strict=True):
        assert all(map(torch.equal, ours, theirs))


def images_asked_for(made: list[str]) -> int:
    return len([each for each in made if each.startswith("GET") and "/train-0" in each])


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    store_copy._description.cache_clear()
