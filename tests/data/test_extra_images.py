"""Extra images: a fixed part of every batch, and sets that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dynat_ray.data import ExtraImages, load_split
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder
from tests.data.loading import KINDS, batches, compile_nothing, make, store_as_jpeg


@pytest.mark.parametrize("kind", KINDS)
def test_extra_data(
    kind: str, colour: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(1)
    made = generator.integers(0, 256, (200, 9, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / "extra.npz", image=made, label=np.arange(200) % 2)
    extra = tmp_path / "extra"
    prepare_dataset(f"npz:{tmp_path / 'extra.npz'}", extra, progress=False)
    images = torch.cat([load_split(colour, "train")[0], load_split(extra, "train")[0]])
    labels = torch.cat([load_split(colour, "train")[1], load_split(extra, "train")[1]])
    counts = []
    for rank in range(2):
        if rank:  # It would compile the same.
            compile_nothing(monkeypatch)
        found = batches(make(colour, kind, rank=rank, world_size=2, extra=ExtraImages(extra, 0.6)))
        assert [len(batch.images) for batch in found] == [8, 8, 8, 8]
        for batch in found:
            assert torch.equal(batch.images, images[batch.indices])
            assert torch.equal(batch.labels, labels[batch.indices])
        counts.append([int((batch.indices >= 50).sum()) for batch in found])
    assert np.sum(counts, axis=0).tolist() == [10, 10, 10, 10]


def test_extra_data_that_do_not_fit(colour: Path, digits: Path) -> None:
    with pytest.raises(UserError, match="labels up to 9, but the data set has 3 classes"):
        make(colour, "memory", extra=ExtraImages(digits, 0.5))


def test_extra_data_whose_classes_are_others(write_folder: WriteFolder, tmp_path: Path) -> None:
    main, extra = tmp_path / "main", tmp_path / "extra"
    pets = write_folder("pets", classes=("bird", "cat", "dog"))
    prepare_dataset(f"folder:{pets}", main, progress=False)
    more = write_folder("more", classes=("cat", "dog"))
    prepare_dataset(f"folder:{more}", extra, progress=False)
    with pytest.raises(UserError, match="calls class 0 'cat', the data set calls it 'bird'"):
        make(main, "memory", extra=ExtraImages(str(extra), 0.5))
    same = write_folder("same", classes=("bird", "cat"))
    prepare_dataset(f"folder:{same}", extra, progress=False)
    assert batches(make(main, "memory", extra=ExtraImages(str(extra), 0.5)))


def test_extra_images_are_cropped_like_the_others(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ffcv")
    # Compiled or not, the parts are the same: tests/data/test_pixels.py.
    compile_nothing(monkeypatch)
    raw, jpeg = tmp_path / "raw", tmp_path / "jpeg"
    root = write_folder()
    prepare_dataset(f"folder:{root}", raw, progress=False)
    store_as_jpeg(monkeypatch, longest=500)
    prepare_dataset(f"folder:{root}", jpeg, progress=False)
    for extra in (raw, jpeg):
        both = [load_split(folder, "train")[0] for folder in (jpeg, extra)]
        whole = torch.cat(both)
        half = ExtraImages(extra, 0.5)
        for batch in batches(make(jpeg, "ffcv", extra=half)):
            assert torch.equal(batch.images, whole[batch.indices])
        found = {
            kind: batches(make(jpeg, kind, extra=half, resized_crop=True))
            for kind in ("ffcv", "memory")
        }
        for batch, same in zip(*found.values(), strict=True):
            assert torch.equal(batch.images, same.images)
            changed = (batch.images != whole[batch.indices]).flatten(1).any(dim=1)
            assert bool(changed.all())
