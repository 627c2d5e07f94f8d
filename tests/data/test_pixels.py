"""The same pixels whatever the loader and the number of workers, from images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynat_ray.data import Loader, load_labels, load_split, load_test_images
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder
from tests.data.loading import augmented, batches, compile_nothing, make, store_as_jpeg


def test_augmented_pixels_do_not_depend_on_loader_or_workers(
    colour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ffcv")
    alone = augmented(colour, "memory")
    for rank in range(3):
        if rank:  # Each would compile the same.
            compile_nothing(monkeypatch)
        for index, image in augmented(colour, "ffcv", rank=rank, world_size=3).items():
            assert torch.equal(image, alone[index])


@pytest.mark.parametrize("image_size", [0, 5])
@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_random_parts_do_not_depend_on_loader_or_workers(
    storage: str,
    image_size: int,
    write_folder: WriteFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ffcv")
    if storage == "jpeg":
        store_as_jpeg(monkeypatch, longest=500)
    prepare_dataset(f"folder:{write_folder()}", tmp_path / "out", progress=False)
    options = {"image_size": image_size, "resized_crop": True}
    alone = augmented(tmp_path / "out", "memory", **options)
    assert len(alone) == 18
    assert {image.shape for image in alone.values()} == {(3, 5, 5) if image_size else (3, 12, 10)}
    for rank in range(3):
        if rank:
            compile_nothing(monkeypatch)
        found = augmented(tmp_path / "out", "ffcv", rank=rank, world_size=3, **options)
        for index, image in found.items():
            assert torch.equal(image, alone[index])
    part = augmented(tmp_path / "out", "memory", indices=np.array([3, 11]), **options)
    assert sorted(part) == [3, 11]
    assert all(torch.equal(image, alone[index]) for index, image in part.items())


def write_photos(root: Path) -> None:
    """Writes smooth colour images of various sizes, which JPEG hardly changes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for label in ("left", "right"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(300, 700, 2)
                ramp = np.linspace(0, 255, width)[:: 1 if label == "left" else -1]
                pixels = np.broadcast_to(ramp[None, :, None], (height, width, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f"{number}.png")


def test_images_of_various_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ffcv")
    write_photos(tmp_path / "photos")
    out = tmp_path / "out"
    info = prepare_dataset(f"folder:{tmp_path / 'photos'}", out, progress=False)
    assert (info.size, info.storage, info.max_side) == (None, "jpeg", 500)
    assert sorted(info.files) == ["test.beton", "train.beton"]
    assert info.mean == pytest.approx([0.5] * 3, abs=0.01)
    with pytest.raises(UserError, match=r"different sizes; set data.image_size"):
        make(out, "ffcv")

    def rows(loader: Loader, epoch: int) -> dict[int, list[float]]:
        return {
            int(index): image.float().mean((0, 1)).tolist()
            for batch in batches(loader, epoch)
            for index, image in zip(batch.indices, batch.images, strict=True)
        }

    centred = rows(make(out, "ffcv", image_size=32), 0)
    for index, row in centred.items():
        assert np.all(np.diff(row) > 0) == (index < 5)
    images, labels = load_test_images(out, image_size=32)
    assert images.shape == (4, 3, 32, 32)
    assert labels.tolist() == load_labels(out, "test").tolist() == [0, 0, 1, 1]

    crops = {"image_size": 32, "resized_crop": True}
    with pytest.raises(UserError, match=r"different sizes; set data.image_size"):
        make(out, "ffcv", resized_crop=True)
    first = rows(make(out, "ffcv", **crops), 0)
    assert first != centred
    compile_nothing(monkeypatch)
    # Keyed by (seed, epoch, index): not by worker, batch or place in the run.
    assert rows(make(out, "ffcv", **crops), 1) != first
    assert rows(make(out, "ffcv", seed=4, **crops), 0) != first
    halves = [rows(make(out, "ffcv", rank=r, world_size=2, **crops), 0) for r in range(2)]
    assert halves[0] | halves[1] == first
    spans = [abs(row[-1] - row[0]) for row in first.values()]
    assert len(set(spans)) > 5
    # Whole images of several sizes: the same parts, and pixels, for the other loader.
    assert all(np.all(np.diff(row) > 0) == (index < 5) for index, row in first.items())
    ours, others = (augmented(out, kind, **crops) for kind in ("ffcv", "memory"))
    assert ours.keys() == others.keys() == first.keys()
    assert all(torch.equal(image, others[index]) for index, image in ours.items())


def test_large_images_of_one_size_are_described_as_they_are_stored(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ffcv")
    out = tmp_path / "out"
    store_as_jpeg(monkeypatch, longest=8)
    info = prepare_dataset(f"folder:{write_folder()}", out, progress=False)
    assert (info.storage, info.size, info.max_side) == ("jpeg", (8, 7), 8)
    assert load_split(out, "train")[0].shape == (18, 3, 8, 7)
    for crops in (False, True):
        loader = make(out, "ffcv", resized_crop=crops)
        assert [batch.images.shape[1:] for batch in batches(loader)] == [(3, 8, 7)] * 2
