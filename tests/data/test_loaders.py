from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynat_ray.data import (
    Augmentation,
    BatchPlan,
    ExtraImages,
    Loader,
    RawBatch,
    ReadingOptions,
    build_loader,
    load_info,
    load_labels,
    load_split,
    load_test_images,
)
from dynat_ray.data import readers as readers_module
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.preparing import dataset as prepare_module
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.stored import StoredImages, read_stored
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder

CPU = torch.device("cpu")
PLANNED = {field.name for field in dataclasses.fields(BatchPlan)}
KINDS = [
    "memory",
    pytest.param("ffcv", marks=pytest.mark.skipif(bool(ffcv_problem()), reason="no FFCV")),
]


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a prepared set of 50 training images of 9 x 7 in three classes."""
    root = tmp_path_factory.mktemp("colour")
    images = np.random.default_rng(0).integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    np.savez(root / "made.npz", image=images, label=np.arange(50) % 3)
    prepare_dataset(f"npz:{root / 'made.npz'}", root / "out", progress=False)
    return root / "out"


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
def test_workers_share_the_same_global_batches(kind: str, world_size: int, colour: Path) -> None:
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
def test_a_part_smaller_than_a_batch(kind: str, colour: Path) -> None:
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
def test_balance(kind: str, colour: Path) -> None:
    few = np.concatenate([np.arange(0, 48, 3), [1, 2]])
    found = batches(make(colour, kind, indices=few, balance=True))
    assert torch.cat([batch.labels for batch in found]).bincount().tolist() == [6, 6, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_extra_data(kind: str, colour: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    made = generator.integers(0, 256, (200, 9, 7, 3), dtype=np.uint8)
    np.savez(tmp_path / "extra.npz", image=made, label=np.arange(200) % 2)
    extra = tmp_path / "extra"
    prepare_dataset(f"npz:{tmp_path / 'extra.npz'}", extra, progress=False)
    images = torch.cat([load_split(colour, "train")[0], load_split(extra, "train")[0]])
    labels = torch.cat([load_split(colour, "train")[1], load_split(extra, "train")[1]])
    counts = []
    for rank in range(2):
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


def test_only_the_images_in_use_are_decoded(colour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def note(*arguments: object, **options: object) -> StoredImages:
        read.append(read_stored(*arguments, **options))  # type: ignore[arg-type]
        return read[-1]

    monkeypatch.setattr(readers_module, "read_stored", note)
    batches(make(colour, "memory", indices=np.array([40, 7, 9])))
    assert [len(stored.images) for stored in read] == [3]


def test_augmented_pixels_do_not_depend_on_loader_or_workers(colour: Path) -> None:
    pytest.importorskip("ffcv")
    alone = augmented(colour, "memory")
    for rank in range(3):
        for index, image in augmented(colour, "ffcv", rank=rank, world_size=3).items():
            assert torch.equal(image, alone[index])


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
        found = augmented(tmp_path / "out", "ffcv", rank=rank, world_size=3, **options)
        for index, image in found.items():
            assert torch.equal(image, alone[index])
    part = augmented(tmp_path / "out", "memory", indices=np.array([3, 11]), **options)
    assert sorted(part) == [3, 11]
    assert all(torch.equal(image, alone[index]) for index, image in part.items())


def test_auto_takes_memory_where_ffcv_does_not_import(
    colour: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "ffcv_problem", lambda: "no such library")
    assert make(colour, "auto").kind == "memory"
    with pytest.raises(UserError, match="does not import .no such library"):
        make(colour, "ffcv")


def test_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; make it with: python -m dynat_ray.prep"):
        load_info(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"has no dataset.json"):
        load_info(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        load_info(tmp_path)


def test_test_images_are_floats_in_source_order(digits: Path) -> None:
    images, labels = load_split(digits, "test")
    floats, same = load_test_images(digits)
    assert floats.dtype == torch.float32
    assert torch.equal((floats * 255).round().to(torch.uint8), images)
    assert torch.equal(labels, same)
    assert torch.equal(load_labels(digits, "test"), labels)
    some, some_labels = load_test_images(digits, limit=30)
    assert some_labels.bincount().tolist() == [3] * 10
    positions = [int((floats == image).all((1, 2, 3)).nonzero()[0]) for image in some]
    assert positions == sorted(positions)


def test_a_split_without_safetensors_is_read_from_its_beton(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    pytest.importorskip("ffcv")
    root, out = write_folder(), tmp_path / "out"
    info = prepare_dataset(f"folder:{root}", out, progress=False)
    expected = load_split(out, "test"), load_split(out, "test", limit=3)
    (out / "test.safetensors").unlink()
    del info.files["test.safetensors"]
    info.save(out)
    found = load_split(out, "test"), load_split(out, "test", limit=3)
    for (images, labels), (same, same_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
    assert torch.equal(load_labels(out, "test"), expected[0][1])


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


def test_images_of_various_sizes(tmp_path: Path) -> None:
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


def store_as_jpeg(monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    """Makes `prepare_dataset` treat small images as it treats more than 2 GiB of large ones."""
    monkeypatch.setattr(prepare_module, "LARGEST_TENSOR_FILE", 1000)
    monkeypatch.setattr(prepare_module, "_SMALL_SIDE", 1)
    monkeypatch.setattr(prepare_module, "_MAX_SIDE", longest)


def test_an_image_of_one_row_is_read(write_folder: WriteFolder, tmp_path: Path) -> None:
    pytest.importorskip("ffcv")
    root, out = write_folder(classes=("cat", "dog"), train=1, test=1), tmp_path / "out"
    Image.new("RGB", (40, 1), (200, 200, 200)).save(root / "train" / "cat" / "000.png")
    prepare_dataset(f"folder:{root}", out, progress=False)
    images, _ = load_split(out, "train", image_size=4)
    assert images[0].unique().tolist() == [200]
