from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps
from sklearn.datasets import load_digits

from dynat_ray.data import load_info, load_split
from dynat_ray.data.preparing import dataset as prepare_module
from dynat_ray.data.preparing import prepare_dataset, storing
from dynat_ray.data.preparing.image_files import Wanted, read_header, read_pixels
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder


def pixels_of(folder: Path) -> np.ndarray:
    """Returns all images below `folder`, sorted by path, `(N, H, W, ...)`."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])


def test_digits_keep_their_pixels(digits: Path) -> None:
    info = load_info(digits)
    assert (info.channels, info.size, info.num_classes) == (1, (8, 8), 10)
    assert info.counts == {"train": 1438, "test": 359}
    images, labels = load_split(digits, "test")
    assert np.bincount(labels.numpy()).min() >= 34
    grey = np.unique(images.numpy())
    assert grey.tolist() == np.rint(np.arange(17) * 255 / 16).astype(int).tolist()
    source = load_digits()
    total = sum(float(load_split(digits, split)[0].double().sum()) for split in ("train", "test"))
    assert total == np.rint(source.images * (255 / 16)).sum()


def test_a_folder_is_stored_exactly(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert info == load_info(tmp_path / "out")
    assert (info.name, info.classes, info.size, info.channels) == (
        "pets",
        ["cat", "dog", "eel"],
        (12, 10),
        3,
    )
    expected = pixels_of(root / "train")
    images, labels = load_split(tmp_path / "out", "train")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert np.allclose(info.mean, (expected / 255).mean((0, 1, 2)))
    assert np.allclose(info.std, (expected / 255).std((0, 1, 2)))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_grey_images_have_one_channel(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(channels=1)
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    images, _ = load_split(tmp_path / "out", "train")
    assert info.channels == 1
    assert np.array_equal(images[:, 0].numpy(), pixels_of(root / "train"))


def test_grey_and_colour_together_are_colour(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    Image.new("L", (10, 12), 77).save(root / "train" / "cat" / "000.png")
    prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    images, _ = load_split(tmp_path / "out", "train")
    assert images.shape[1] == 3
    assert images[0].unique().tolist() == [77]


def test_sixteen_bit_grey_is_scaled(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(channels=1)
    wide = np.full((12, 10), 0x8000, np.uint16)
    Image.fromarray(wide).save(root / "train" / "cat" / "000.png")
    prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert load_split(tmp_path / "out", "train")[0][0].unique().tolist() == [128]


def test_eight_bits_in_32_stay_as_they_are(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(channels=1)
    Image.fromarray(np.full((12, 10), 200, np.int32)).save(root / "train" / "cat" / "0.tiff")
    prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert load_split(tmp_path / "out", "train")[0][0].unique().tolist() == [200]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff", "png", "avif"])
def test_images_are_set_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :15, 0] = pixels[10:, :15, 1] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"phone.{kind}"
    Image.fromarray(pixels).save(path, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path))
    with path.open("rb") as file:
        header = read_header(file, "phone")
        assert np.array_equal(
            read_pixels(file, "phone", Wanted(channels=3)).pixels, np.asarray(upright)
        )
        assert read_pixels(file, "phone", Wanted(channels=3, side=8)).pixels.shape == (8, 8, 3)
    assert (header.channels, header.size) == (3, (upright.height, upright.width))


@pytest.mark.parametrize("kind", ["tar", "tar.xz", "zip"])
def test_an_archive_gives_what_its_folder_gives(
    kind: str, write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder(test_name="val")
    (root / "labels.csv").write_text("not an image")
    (root / "train" / ".hidden").write_text("not an image")
    archive = tmp_path / f"pets.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in root.rglob("*"):
                opened.write(path, Path("outer") / path.relative_to(root))
    else:
        with tarfile.open(archive, "w:xz" if kind == "tar.xz" else "w") as opened:
            opened.add(root, "outer")
    from_folder = prepare_dataset(f"folder:{root}", tmp_path / "a", progress=False)
    from_archive = prepare_dataset(f"folder:{archive}", tmp_path / "b", progress=False)
    assert from_archive.name == "pets"
    assert from_archive.checksum == from_folder.checksum
    assert from_archive.classes == from_folder.classes


def test_numbered_classes_are_sorted_by_value(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder(classes=("10", "9", "2"))
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert info.classes == ["2", "9", "10"]


def test_size_resizes_the_shorter_side_and_crops(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    striped = np.zeros((10, 30, 3), np.uint8)
    striped[:, 10:20] = 200
    Image.fromarray(striped).save(root / "train" / "cat" / "000.png")
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", size=6, progress=False)
    images, _ = load_split(tmp_path / "out", "train")
    assert info.size == (6, 6)
    assert images.shape == (18, 3, 6, 6)
    # Only the middle remains; the filter reaches a little over its edges.
    assert images[0].min() > 180


def test_limit_takes_a_balanced_part(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", limit=9, progress=False)
    assert info.counts == {"train": 9, "test": 6}
    labels = load_split(tmp_path / "out", "train")[1]
    assert labels.bincount().tolist() == [3, 3, 3]


def test_the_advised_larger_limit_works(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    with pytest.raises(
        UserError, match="has no usable test images; give more, or a larger --limit"
    ):
        prepare_dataset(f"folder:{root}", tmp_path / "out", limit=2, progress=False)
    assert prepare_dataset(f"folder:{root}", tmp_path / "out", limit=3, progress=False)


def test_preparing_again_replaces_a_data_set(write_folder: WriteFolder, tmp_path: Path) -> None:
    root, out = write_folder(), tmp_path / "out"
    prepare_dataset(f"folder:{root}", out, progress=False)
    prepare_dataset(f"folder:{root}", out, limit=3, progress=False)
    assert load_info(out).counts["train"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pets"]


def test_the_command_that_made_it_is_known(write_folder: WriteFolder, tmp_path: Path) -> None:
    root, out = write_folder("my pets"), tmp_path / "out"
    prepare_dataset(f"folder:{root}", out, size=6, limit=9, skip_bad=True, progress=False)
    (out / "train.safetensors").unlink()
    command = f"prepare 'folder:{root}' --size 6 --limit 9 --skip-bad --out {out}"
    with pytest.raises(UserError, match=f"prepare it again: python -m dynat_ray.{command}$"):
        load_split(out, "train")


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="no data-set folder"):
        prepare_dataset("digits", tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_checksum_is_that_of_pixels_and_labels(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder()
    first = prepare_dataset(f"folder:{root}", tmp_path / "a", progress=False)
    again = prepare_dataset(f"folder:{root}", tmp_path / "b", progress=False)
    changed = np.asarray(Image.open(root / "train" / "cat" / "000.png")).copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(root / "train" / "cat" / "000.png")
    other = prepare_dataset(f"folder:{root}", tmp_path / "c", progress=False)
    assert first.checksum == again.checksum
    assert first.checksum != other.checksum


def test_a_full_disk_leaves_nothing(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storing.TensorWriter, "add", full)
    with pytest.raises(UserError, match="disk of .* is full"):
        prepare_dataset(f"folder:{write_folder()}", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_the_description_is_plain_json(digits: Path) -> None:
    values = json.loads((digits / "dataset.json").read_text())
    assert values["classes"] == [str(number) for number in range(10)]
    assert values["format_version"] == 1


def test_without_ffcv_only_tensors_are_written(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "ffcv_problem", lambda: "no such library")
    root = write_folder()
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert sorted(info.files) == ["test.safetensors", "train.safetensors"]
    Image.new("RGB", (30, 40)).save(root / "train" / "cat" / "000.png")
    with pytest.raises(UserError, match=r"different sizes, which takes FFCV.*smaller --size"):
        prepare_dataset(f"folder:{root}", tmp_path / "other", progress=False)
    assert prepare_dataset(f"folder:{root}", tmp_path / "other", size=8, progress=False).size == (
        8,
        8,
    )


def test_more_than_fits_into_memory_goes_to_ffcv_alone(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ffcv")
    monkeypatch.setattr(prepare_module, "LARGEST_TENSOR_FILE", 1000)
    root = write_folder()
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert (info.storage, sorted(info.files)) == ("raw", ["test.beton", "train.beton"])
    images, _ = load_split(tmp_path / "out", "train")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), pixels_of(root / "train"))


def test_few_large_images_wait_to_be_stored(
    write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    add = storing.TensorWriter.add

    def note(self: storing.TensorWriter, images: np.ndarray, labels: np.ndarray) -> None:
        sizes.append(images.nbytes)
        add(self, images, labels)

    monkeypatch.setattr(storing.TensorWriter, "add", note)
    monkeypatch.setattr(storing, "_MOST_PENDING", 1000)
    monkeypatch.setattr(storing, "_COUNTED", 50)
    root = write_folder()
    info = prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert set(sizes) == {2 * 12 * 10 * 3}
    expected = pixels_of(root / "train")
    images, _ = load_split(tmp_path / "out", "train")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert np.allclose(info.mean, (expected / 255).mean((0, 1, 2)))


def test_files_can_be_read_by_the_same_people(tmp_path: Path) -> None:
    prepare_dataset("digits", tmp_path / "out", limit=20, progress=False)
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert len(modes) == 1
