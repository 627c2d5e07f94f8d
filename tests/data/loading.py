"""Loaders over small data sets, and their batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.data import (
    Augmentation,
    BatchPlan,
    Loader,
    RawBatch,
    ReadingOptions,
    build_loader,
    load_info,
)
from dynat_ray.data.ffcv_library import ffcv_module, ffcv_problem
from dynat_ray.data.preparing import dataset as preparing_module

CPU = torch.device("cpu")
KINDS = [
    "memory",
    pytest.param("ffcv", marks=pytest.mark.skipif(bool(ffcv_problem()), reason="no FFCV")),
]
PLANNED = {field.name for field in dataclasses.fields(BatchPlan)}


def make(folder: Path, kind: str, **options: object) -> Loader:
    """Builds a loader over the training split."""
    indices = options.pop("indices", np.arange(load_info(folder).counts["train"]))
    extra = options.pop("extra", None)
    plan: dict = {"batch_size": 16, "seed": 3}
    plan |= {name: value for name, value in options.items() if name in PLANNED}
    rest: dict = {name: value for name, value in options.items() if name not in PLANNED}
    reading = ReadingOptions(device=CPU, kind=kind, **rest)  # type: ignore[arg-type]
    return build_loader(folder, "train", indices, BatchPlan(**plan), reading, extra)  # type: ignore[arg-type]


def batches(loader: Loader, epoch: int = 0, start_step: int = 0) -> list[RawBatch]:
    """Returns an epoch's batches and closes the loader."""
    try:
        return list(loader.iterate(epoch, start_step))
    finally:
        loader.close()


def augmented(
    folder: Path, kind: str, epoch: int = 4, **options: object
) -> dict[int, torch.Tensor]:
    """Returns the augmented images of an epoch by index."""
    augment = Augmentation(["crop-2", "flip", "cutout-3"], seed=1)
    return {
        int(index): image
        for batch in batches(make(folder, kind, **options), epoch)
        for index, image in zip(
            batch.indices,
            augment(batch.images, batch.labels, batch.indices, epoch, 3).images,
            strict=True,
        )
    }


def compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes FFCV decode in Python, slowly, but without a compilation for each reader."""
    if not ffcv_problem():
        monkeypatch.setattr(ffcv_module("pipeline.compiler").Compiler, "is_enabled", False)


def store_as_jpeg(monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    """Makes `prepare_dataset` treat small images as it treats more than 2 GiB of large ones."""
    monkeypatch.setattr(preparing_module, "LARGEST_TENSOR_FILE", 1000)
    monkeypatch.setattr(preparing_module, "_SMALL_SIDE", 1)
    monkeypatch.setattr(preparing_module, "_MAX_SIDE", longest)
