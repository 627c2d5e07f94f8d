from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynat_ray.data import load_info, load_split
from dynat_ray.data.preparing.cache import cached_dataset
from dynat_ray.data_config import DataConfig
from dynat_ray.errors import UserError


def write_images(path: Path, level: int) -> str:
    """Writes images of one grey level; returns them as a SOURCE."""
    path.parent.mkdir(exist_ok=True)
    images = np.full((4, 5, 5, 1), level, np.uint8)
    np.savez(path, image=images, label=np.array([0, 1, 0, 1]))
    return f"npz:{path}"


def test_each_source_has_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / "cats_v1.npz", tmp_path / "cats" / "v1.npz"]
    sources = [write_images(path, level) for level, path in enumerate(paths, start=7)]
    for _ in range(2):
        for level, source in enumerate(sources, start=7):
            images, _ = load_split(cached_dataset(DataConfig(source=source)), "train")
            assert images.unique().tolist() == [level]


def test_a_place_that_holds_another_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAT_RAY_CACHE", str(tmp_path / "cache"))
    config = DataConfig(source=write_images(tmp_path / "made.npz", 7))
    folder = cached_dataset(config)
    info = load_info(folder)
    info.source = "npz:/elsewhere.npz"
    info.save(folder)
    with pytest.raises(UserError, match=r"holds npz:/elsewhere.npz, not npz:.*made.npz; remove"):
        cached_dataset(config)
