"""Transparency, depths and other kinds of pixels: the same rule for all formats and images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dynat_ray.data import DatasetInfo, load_split
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.preparing.image_files import (
    FIRST_FRAME,
    OTHER_COLOURS,
    Wanted,
    read_header,
    read_pixels,
)
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder

RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 85
"""Values of 12 bits, to 3995."""


def write_pair(root: Path, name: str, first: bytes, second: bytes) -> Path:
    """Writes a data set of two classes, an image each, the same in training and test."""
    for split in ("train", "test"):
        for label, content in (("a", first), ("b", second)):
            folder = root / split / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    return root


def png16(values: np.ndarray, colour_type: int, chunks: bytes = b"", late: bytes = b"") -> bytes:
    """A PNG of 16 bits a channel, which Pillow writes for grey alone."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunks, chunk(b"IDAT", zlib.compress(data)), late]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def pgm(values: np.ndarray, kind: str = "P5", white: int = 65535) -> bytes:
    height, width = values.shape[:2]
    return f"{kind} {width} {height} {white}\n".encode() + values.astype(">u2").tobytes()


def prepared(root: Path, out: Path, **options: object) -> tuple[DatasetInfo, np.ndarray]:
    info = prepare_dataset(f"folder:{root}", out, progress=False, **options)
    return info, load_split(out, "train")[0].numpy()


COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)
DEEP = {
    "grey.png": (png16(RAMP, 0), png16(RAMP // 8, 0)),
    "colour.png": (png16(COLOUR, 2), png16(COLOUR // 8, 2)),
    "grey.tiff": (saved(RAMP, "tiff"), saved(RAMP // 8, "tiff")),
    "grey.pgm": (pgm(RAMP), pgm(RAMP // 8)),
    "colour.ppm": (pgm(COLOUR, "P6"), pgm(COLOUR // 8, "P6")),
    "whole.tiff": (saved(RAMP.astype(np.int32), "tiff"), saved(RAMP.astype(np.int32) // 8, "tiff")),
    "float.tiff": (
        saved(RAMP.astype(np.float32), "tiff"),
        saved((RAMP // 8).astype(np.float32), "tiff"),
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_one_scale_for_all_images_of_more_than_8_bits(name: str, tmp_path: Path) -> None:
    root = write_pair(tmp_path / "scans", name, *DEEP[name])
    info, images = prepared(root, tmp_path / "out")
    expected = COLOUR if "colour" in name else RAMP[..., None]
    for found, values in zip(images, (expected, expected // 8), strict=True):
        assert np.array_equal(np.moveaxis(found, 0, -1), np.rint(values * (255 / 4095)))
    assert "scaled by 255/4095" in info.account.converted[0].what
    _, images = prepared(root, tmp_path / "out", bit_depth=16)
    assert images.max() == round(3995 * 255 / 65535)


def test_fractions_have_one_as_white(tmp_path: Path) -> None:
    files = (saved((RAMP / top).astype(np.float32), "tiff") for top in (3995, 7990))
    info, images = prepared(write_pair(tmp_path / "scans", "a.tiff", *files), tmp_path / "out")
    assert images.reshape(2, -1).max(axis=1).tolist() == [255, 128]
    assert "scaled by 255/1 " in info.account.converted[0].what


def test_a_pgm_says_itself_what_is_white(tmp_path: Path) -> None:
    root = write_pair(tmp_path / "scans", "a.pgm", pgm(RAMP, white=3995), pgm(RAMP // 8))
    _, images = prepared(root, tmp_path / "out")
    assert images.reshape(2, -1).max(axis=1).tolist() == [255, 2]


@pytest.mark.parametrize(
    ("first", "second", "options", "words"),
    [
        (RAMP, RAMP, {"bit_depth": 10}, "value 3995, .* give --bit-depth 12"),
        (RAMP.astype(np.uint8), RAMP.astype(np.uint8), {"bit_depth": 12}, "no image has more"),
        (RAMP, RAMP, {"bit_depth": 99}, "--bit-depth is 99; it must be from 8 to 32"),
        (RAMP, (RAMP / 9000).astype(np.float32), {}, "floating-point numbers and .* whole ones"),
        ((RAMP / 9000).astype(np.float32),) * 2 + ({"bit_depth": 12}, "of which 1 is white"),
        ((RAMP / 1000).astype(np.float32),) * 2 + ({}, "up to 3.995.*which value is white"),
        (RAMP, (RAMP - 99.0).astype(np.float32), {}, "some of its pixels are negative"),
        (RAMP, (RAMP / 0).astype(np.float32), {}, "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_scales_that_make_no_sense_are_refused(
    first: np.ndarray, second: np.ndarray, options: dict, words: str, tmp_path: Path
) -> None:
    root = write_pair(tmp_path / "scans", "a.tiff", saved(first, "tiff"), saved(second, "tiff"))
    with pytest.raises(UserError, match=words):
        prepared(root, tmp_path / "out", **options)


def test_the_advised_bit_depth_works(tmp_path: Path) -> None:
    root = write_pair(tmp_path / "scans", "a.png", *DEEP["grey.png"])
    with pytest.raises(UserError, match=r"give --bit-depth (\d+)") as refused:
        prepared(root, tmp_path / "out", bit_depth=9)
    advised = int(str(refused.value).partition("give --bit-depth ")[2].partition(",")[0])
    assert prepared(root, tmp_path / "out", bit_depth=advised)[1].max() == 249


def test_a_scale_that_blackens_everything_is_pointed_at(tmp_path: Path) -> None:
    root = write_pair(tmp_path / "scans", "a.png", *DEEP["grey.png"])
    info, _ = prepared(root, tmp_path / "out", bit_depth=24)
    assert "no image of more than 8 bits is brighter than 0.1 of 255" in str(info.account.warnings)


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
HOLE = np.where(np.arange(48).reshape(6, 8) % 2, 255, 0).astype(np.uint8)
PALETTE = Image.fromarray(GREY).convert("P")


def palette(**options: object) -> bytes:
    file = io.BytesIO()
    PALETTE.save(file, "png", **options)  # type: ignore[arg-type]
    return file.getvalue()


TRANSPARENT = {
    "RGBA": saved(np.dstack([GREY, GREY, GREY, HOLE]), "png"),
    "LA": saved(np.dstack([GREY, HOLE]), "png"),
    "webp": saved(np.dstack([GREY, GREY, GREY, HOLE]), "webp", lossless=True, exact=True),
    "tiff": saved(np.dstack([GREY, GREY, GREY, HOLE]), "tiff"),
    "palette": palette(transparency=bytes(HOLE.reshape(-1)[i % 48] for i in range(48))),
    "RGBA of 16 bits": png16(np.dstack([GREY, GREY, GREY, HOLE]).astype(np.uint16) * 257, 6),
    "LA of 16 bits": png16(np.dstack([GREY, HOLE]).astype(np.uint16) * 257, 4),
}


@pytest.mark.parametrize("kind", [*TRANSPARENT])
def test_transparency_is_laid_on_white(kind: str, tmp_path: Path) -> None:
    if kind == "palette":
        pytest.skip("its own test")
    root = write_pair(tmp_path / "icons", "a", *[TRANSPARENT[kind]] * 2)
    info, images = prepared(root, tmp_path / "out")
    expected = np.where(HOLE, GREY, 255)
    assert (images == expected).all()
    assert "images with transparency laid on white" in [e.what for e in info.account.converted]
    _, images = prepared(root, tmp_path / "out", background="#0a0b0c")
    assert images.shape[1] == 3
    assert images[0, :, 0, 0].tolist() == [10, 11, 12]
    assert (images[0][:, HOLE > 0] == GREY[HOLE > 0]).all()


@pytest.mark.parametrize("many", [False, True])
def test_transparent_palettes_are_laid_on_white(many: bool, tmp_path: Path) -> None:
    clear = int(np.asarray(PALETTE)[2, 3])
    levels = bytes(0 if number == clear else 255 for number in range(256))
    content = palette(transparency=levels if many else clear)
    root = write_pair(tmp_path / "icons", "a", content, content)
    _, images = prepared(root, tmp_path / "out")
    opaque = np.asarray(PALETTE.convert("RGB"))
    expected = np.where((np.asarray(PALETTE) == clear)[..., None], 255, opaque)
    assert np.array_equal(np.moveaxis(images[0], 0, -1), expected)


@pytest.mark.parametrize(
    "content",
    [
        saved(GREY, "png", transparency=int(GREY[1, 1])),
        png16(
            GREY.astype(np.uint16) * 257,
            0,
            chunk(b"tRNS", bytes([0, 0])[:0] + struct.pack(">H", int(GREY[1, 1]) * 257)),
        ),
        saved(np.dstack([GREY] * 3), "png", transparency=(int(GREY[1, 1]),) * 3),
    ],
    ids=["grey", "grey of 16 bits", "colour"],
)
def test_a_transparent_colour_is_laid_on_white(content: bytes, tmp_path: Path) -> None:
    _, images = prepared(write_pair(tmp_path / "icons", "a", content, content), tmp_path / "out")
    assert (images == np.where(GREY[1, 1] == GREY, 255, GREY)).all()


def test_opaque_images_are_not_counted_as_transparent(tmp_path: Path) -> None:
    content = saved(np.dstack([GREY, GREY, GREY, np.full_like(GREY, 255)]), "png")
    info, _ = prepared(write_pair(tmp_path / "icons", "a", content, content), tmp_path / "out")
    assert info.account.converted == []


@pytest.mark.parametrize("background", ["nowhere", "#12345", "#00000000"])
def test_a_background_that_is_no_colour(background: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--background is"):
        prepare_dataset("digits", tmp_path / "out", background=background, progress=False)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("deep", [False, True])
def test_a_png_whose_orientation_comes_last_is_set_upright(deep: bool, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = chunk(b"eXIf", exif.tobytes()[6:])
    content = png16(RAMP, 0, late=data)
    if not deep:
        plain = saved(GREY, "png")
        content = plain[:-12] + data + plain[-12:]
    upright = np.rot90(np.rint(RAMP * (255 / 4095)) if deep else GREY, {3: 2, 6: 3}[orientation])
    file = io.BytesIO(content)
    assert read_header(file, "x").size == upright.shape
    file.seek(0)
    found = read_pixels(file, "x", Wanted(channels=1, white=4095))
    assert np.array_equal(found.pixels[..., 0], upright)
    assert any("upright" in what for what in found.converted)


def test_what_becomes_of_other_kinds_is_said(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    cat = root / "train" / "cat"
    colours = np.random.default_rng(1).integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    frames = [Image.fromarray(each) for each in colours]
    for kind in ("gif", "png", "webp", "tiff"):
        frames[0].save(cat / f"frames.{kind}", save_all=True, append_images=frames[1:])
    ink = np.random.default_rng(2).integers(0, 256, (12, 10, 4), dtype=np.uint8)
    Image.fromarray(ink, "CMYK").save(cat / "print.jpg")
    Image.fromarray(colours[1]).save(cat / "really a.jpg", "PNG")
    frames[2].convert("1").save(cat / "fax.tiff")
    info, images = prepared(root, tmp_path / "out")
    found = {each.what: each.count for each in info.account.converted}
    assert found == {FIRST_FRAME: 4, OTHER_COLOURS: 1}
    assert info.account.counts["train"]["cat"] == 13
    assert any((np.moveaxis(each, 0, -1) == colours[1]).all() for each in images)
