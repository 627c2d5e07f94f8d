"""Small data sets made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
