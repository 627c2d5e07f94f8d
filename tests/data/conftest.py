"""Small data sets made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynat_ray.data.preparing import prepare_dataset

WriteFolder = Callable[..., Path]


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Returns a function that writes class folders of random PNG images."""

    def write(
        name: str = "pets",
        *,
        classes: tuple[str, ...] = ("cat", "dog", "eel"),
        train: int = 6,
        test: int = 2,
        size: tuple[int, int] = (12, 10),
        channels: int = 3,
        test_name: str = "test",
    ) -> Path:
        generator = np.random.default_rng(0)
        root = tmp_path / name
        for split, count in (("train", train), (test_name, test)):
            for label in classes:
                folder = root / split / label
                folder.mkdir(parents=True)
                for number in range(count):
                    shape = (*size, 3) if channels == 3 else size
                    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        return root

    return write


@pytest.fixture(scope="session")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a prepared set of 50 training images of 9 x 7 in three classes."""
    root = tmp_path_factory.mktemp("colour")
    images = np.random.default_rng(0).integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    np.savez(root / "made.npz", image=images, label=np.arange(50) % 3)
    prepare_dataset(f"npz:{root / 'made.npz'}", root / "out", progress=False)
    return root / "out"
