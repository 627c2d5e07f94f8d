"""Published corruption sets, on small files of their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dynat_ray.errors import UserError
from dynat_ray.evaluation.corruption_files import measure_corruption_files, read_corruption_set

CLASSES = ["cat", "dog"]
SHAPE = (3, 4, 4)


class Bright(nn.Module):
    """Says class 1 where an image is brighter than half."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


def measure(folder: Path, samples: int = 0) -> dict[str, object]:
    found = read_corruption_set(folder, CLASSES)
    return measure_corruption_files(Bright(), found, SHAPE, samples=samples, batch_size=3)


def write_arrays(folder: Path) -> None:
    """Four images a severity; at severity s, s - 1 of them look like the other class."""
    labels = np.tile([0, 0, 1, 1], 5)
    shades = labels.copy()
    for severity in range(5):
        shades[4 * severity : 4 * severity + min(severity, 4)] ^= 1
    fog = np.repeat(255 * shades[:, None], 48, axis=1).reshape(20, 4, 4, 3).astype(np.uint8)
    np.save(folder / "fog.npy", fog)
    np.save(folder / "snow.npy", np.full_like(fog, 255))
    np.save(folder / "labels.npy", labels)


def test_arrays(tmp_path: Path) -> None:
    write_arrays(tmp_path)
    found = measure(tmp_path)
    assert found["accuracy"] == {
        "fog": {"1": 100.0, "2": 75.0, "3": 50.0, "4": 25.0, "5": 0.0, "mean": 50.0},
        "snow": {"1": 50.0, "2": 50.0, "3": 50.0, "4": 50.0, "5": 50.0, "mean": 50.0},
    }
    assert (found["mean"], found["samples"]) == (50.0, 4)
    # A label for each image of a severity does as well.
    np.save(tmp_path / "labels.npy", np.array([0, 0, 1, 1]))
    assert measure(tmp_path) == found
    assert measure(tmp_path, samples=2)["samples"] == 2


def test_class_folders(tmp_path: Path) -> None:
    for severity, shade in ((1, 255), (2, 0)):
        for name, own in (("cat", 0), ("dog", shade)):
            folder = tmp_path / "fog" / str(severity) / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((4, 4, 3), own, dtype=np.uint8)).save(folder / "a.JPEG")
    found = measure(tmp_path)
    assert found["accuracy"] == {"fog": {"1": 100.0, "2": 50.0, "mean": 75.0}}


def _other_size(folder: Path) -> None:
    np.save(folder / "fog.npy", np.zeros((20, 5, 5, 3), dtype=np.uint8))


def _not_five(folder: Path) -> None:
    np.save(folder / "fog.npy", np.zeros((19, 4, 4, 3), dtype=np.uint8))


def _other_count(folder: Path) -> None:
    np.save(folder / "labels.npy", np.zeros(7, dtype=np.int64))


def _other_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.full(20, 2))


def _no_array(folder: Path) -> None:
    (folder / "fog.npy").write_bytes(b"\x80\x04K\x01.")


def _nothing(folder: Path) -> None:
    for file in folder.glob("*.npy"):
        file.unlink()


def _other_class(folder: Path) -> None:
    _nothing(folder)
    (folder / "fog" / "1" / "bird").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_other_size, r"images of fog have shape \(3, 5, 5\)"),
        (_not_five, r"uint8 \(5 n, H, W, C\)"),
        (_other_count, r"labels.npy has shape \(7,\)"),
        (_other_labels, r"do not lie in \[0, 1\]"),
        (_no_array, "can't be read as an array"),
        (_nothing, "holds neither"),
        (_other_class, "is no class of the data set"),
    ],
)
def test_sets_that_do_not_fit(tmp_path: Path, spoil: object, words: str) -> None:
    write_arrays(tmp_path)
    spoil(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        measure(tmp_path)
