"""Archives that ask for far more than they are: refused in one sentence, memory stays flat."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dynat_ray.data.preparing import archives, prepare_dataset
from dynat_ray.data.preparing.archives import unpack
from dynat_ray.data.preparing.file_stores import PackedFiles
from dynat_ray.errors import UserError
from tests.data.conftest import WriteFolder

BIG = 2**26
FLAT = 2**24
IMAGE = "train/cat/a.png"


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def file_of(name: str, data: bytes) -> bytes:
    return header(name, len(data)) + data + bytes(-len(data) % 512)


def pax(kind: bytes, records: dict[str, str]) -> bytes:
    created = tarfile.TarInfo._create_pax_generic_header  # type: ignore[attr-defined]
    return bytes(created(records, kind, "utf-8"))


def sparse(blocks: int) -> bytes:
    """A GNU sparse file of 1 GiB without data, whose map goes on over so many blocks."""
    start = bytearray(header(IMAGE, 0, tarfile.GNUTYPE_SPARSE))
    start[482] = int(blocks > 0)
    start[483:495] = b"%011o\0" % 2**30
    start[148:156] = b" " * 8
    start[148:156] = b"%06o\0 " % sum(start)
    block = (b"%011o\0" % 512) * 42 + b"\1" + bytes(7)
    return bytes(start) + block * blocks


def compressed_zip(archive: Path, method: int, data: bytes = bytes(BIG)) -> None:
    with zipfile.ZipFile(archive, "w", method) as opened:
        opened.writestr(IMAGE, data)


def zip_of_another_size(archive: Path) -> None:
    compressed_zip(archive, zipfile.ZIP_DEFLATED, bytes(1000))
    content = archive.read_bytes()
    archive.write_bytes(content.replace(struct.pack("<L", 1000), struct.pack("<L", 2000)))


def zip_with_a_huge_table(archive: Path) -> None:
    compressed_zip(archive, zipfile.ZIP_STORED, b"x")
    end = bytearray(archive.read_bytes()[-22:])
    size = 3 * 2**30
    end[12:20] = struct.pack("<LL", size, 0)
    with archive.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(size)
        file.write(end)


def twice(archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(IMAGE, b"x")
        opened.writestr(f"./{IMAGE}", b"y")


def lzma_with_a_large_dictionary(archive: Path) -> None:
    content = bytearray(lzma.compress(file_of(IMAGE, b"x"), lzma.FORMAT_ALONE))
    content[1:5] = struct.pack("<L", 2**31)
    archive.write_bytes(content)


def gzip_with_a_wrong_checksum(archive: Path) -> None:
    content = bytearray(gzip.compress(file_of(IMAGE, b"x") + bytes(1024)))
    content[-5] ^= 1
    archive.write_bytes(content)


def negative_size(archive: Path) -> None:
    """A hidden file that ends where it begins, so that the next one is the same again."""
    content = bytearray(header(".hidden", 0))
    content[124:136] = b"\xff" * 10 + struct.pack(">h", -512)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content)
    archive.write_bytes(bytes(content) + bytes(1024))


def tar_of(content: Callable[[], bytes], squeeze: Callable[[bytes], bytes]) -> Callable[..., None]:
    return lambda archive: archive.write_bytes(squeeze(content() + bytes(1024)))  # type: ignore[no-any-return]


MALFORMED_MAP = pax(tarfile.XHDTYPE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
GLOBAL = [pax(tarfile.XGLTYPE, {f"key{n}": "v" * 60_000}) + file_of(f"{n}", b"") for n in range(9)]
BOMBS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "bzip2": ("zip", lambda a: compressed_zip(a, zipfile.ZIP_BZIP2), "compressed by bzip2"),
    "lzma": ("zip", lambda a: compressed_zip(a, zipfile.ZIP_LZMA), "compressed by LZMA"),
    "longer than real": ("zip", zip_of_another_size, "shorter than declared"),
    "table": ("zip", zip_with_a_huge_table, "longer headers"),
    "twice": ("zip", twice, "holds the file './train/cat/a.png' twice"),
    "dictionary": ("tar.lzma", lzma_with_a_large_dictionary, "more than 256 MiB of memory"),
    "checksum": ("tar.gz", gzip_with_a_wrong_checksum, "is damaged"),
    "negative size": ("tar", negative_size, "is damaged"),
    "pax header": (
        "tar.gz",
        tar_of(lambda: header("x", BIG, tarfile.XHDTYPE) + bytes(BIG), gzip.compress),
        "longer headers",
    ),
    "long name": (
        "tar.bz2",
        tar_of(lambda: header("x", BIG, tarfile.GNUTYPE_LONGNAME) + bytes(BIG), bz2.compress),
        "longer headers",
    ),
    "pax chain": (
        "tar.xz",
        tar_of(lambda: pax(tarfile.XHDTYPE, {"comment": "x"}) * 2000, lzma.compress),
        "longer headers",
    ),
    "global headers": ("tar.xz", tar_of(lambda: b"".join(GLOBAL), lzma.compress), "longer headers"),
    "sparse map": ("tar.xz", tar_of(lambda: sparse(50_000), lzma.compress), "longer headers"),
    "sparse file": ("tar", tar_of(lambda: sparse(0), bytes), "sparse file 'train/cat/a.png'"),
    "malformed map": (
        "tar",
        tar_of(lambda: MALFORMED_MAP + file_of(IMAGE, b"no map"), bytes),
        "is damaged",
    ),
    "same name": (
        "tar",
        tar_of(lambda: 2 * file_of(IMAGE, b"x"), bytes),
        "holds the file 'train/cat/a.png' twice",
    ),
    "long path": (
        "tar",
        tar_of(lambda: pax(tarfile.XHDTYPE, {"path": "a/" * 600}) + file_of("a", b""), bytes),
        "path of 1,199 characters",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_flat_memory(bomb: str, tmp_path: Path) -> None:
    kind, make, words = BOMBS[bomb]
    archive = tmp_path / f"bomb.{kind}"
    make(archive)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words) as refused:
            unpack(archive, tmp_path / "packed")
        assert tracemalloc.get_traced_memory()[1] < FLAT
    finally:
        tracemalloc.stop()
    assert "\n" not in str(refused.value)
    assert (tmp_path / "packed").stat().st_size <= 1000


@pytest.mark.parametrize("name", [IMAGE, ".hidden"])
@pytest.mark.parametrize("kind", ["tar.xz", "tar.bz2", "zip"])
def test_what_unpacks_to_far_more_than_its_size(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "RATIO_COUNTS_FROM", 2**20)
    archive = tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.writestr(name, bytes(2**22))
        if name == ".hidden":  # Never read.
            assert unpack(archive, tmp_path / "packed").names == []
            return
    else:
        squeeze = lzma.compress if kind == "tar.xz" else bz2.compress
        archive.write_bytes(squeeze(file_of(name, bytes(2**24)) + bytes(1024)))
    with pytest.raises(UserError, match="far more than its own size"):
        unpack(archive, tmp_path / "packed")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_more_files_than_any_data_set(
    kind: str, write_folder: WriteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    archive = tmp_path / f"pets.{kind}"
    names = [f"train/cat/{number}.png" for number in range(4)]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for name in names:
                opened.writestr(name, b"x")
    else:
        archive.write_bytes(b"".join(file_of(name, b"x") for name in names) + bytes(1024))
    with pytest.raises(UserError, match="holds over 3 files"):
        unpack(archive, tmp_path / "packed")


def stored_zip(archive: Path, content: bytes) -> None:
    compressed_zip(archive, zipfile.ZIP_STORED, content)


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("tar", lambda archive, data: archive.write_bytes(file_of(IMAGE, data) + bytes(1024))),
        (
            "tar.xz",
            lambda a, data: a.write_bytes(
                lzma.compress(file_of(IMAGE, data) + bytes(1024), preset=1)
            ),
        ),
        ("zip", stored_zip),
    ],
)
def test_a_large_file_passes_through_in_pieces(
    kind: str, make: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    archive = tmp_path / f"large.{kind}"
    piece = np.random.default_rng(0).bytes(2**20)
    make(archive, piece * 24)
    tracemalloc.start()
    try:
        files = unpack(archive, tmp_path / "packed")
        with files.open(files.names[0]) as file:
            assert file.read(2**20) == piece
            assert file.seek(-(2**20), io.SEEK_END) == 23 * 2**20
            assert file.read() == piece
            assert file.read() == b""
        assert tracemalloc.get_traced_memory()[1] < FLAT
    finally:
        tracemalloc.stop()


def test_xz_files_in_several_streams_are_read_whole(tmp_path: Path) -> None:
    content = b"".join(file_of(f"train/cat/{n}.png", b"%d" % n * 3000) for n in range(50))
    middle = len(content) // 2 + 7
    parts = [content[:middle], content[middle:] + bytes(1024)]
    archive = tmp_path / "pets.tar.xz"
    archive.write_bytes(bytes(8).join(map(lzma.compress, parts)) + bytes(4))
    files = unpack(archive, tmp_path / "packed")
    assert [name.name for name in files.names] == [f"{n}.png" for n in range(50)]
    assert contents(files) == [b"%d" % n * 3000 for n in range(50)]


def test_a_zip_file_may_have_a_comment(tmp_path: Path) -> None:
    archive = tmp_path / "pets.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(IMAGE, b"x")
        opened.comment = b"c" * 60_000
    assert contents(unpack(archive, tmp_path / "packed")) == [b"x"]


def contents(files: PackedFiles) -> list[bytes]:
    found = []
    for name in files.names:
        with files.open(name) as file:
            found.append(file.read())
    return found


def test_an_archive_inside_is_a_file_like_others(write_folder: WriteFolder, tmp_path: Path) -> None:
    root = write_folder()
    stored_zip(root / "train" / "cat" / "inner.zip", b"x")
    archive = tmp_path / "pets.tar"
    with tarfile.open(archive, "w") as opened:
        opened.add(root, "pets")
    with pytest.raises(UserError, match=r"inner.zip \(not an image"):
        prepare_dataset(f"folder:{archive}", tmp_path / "out", progress=False)


def npy(shape: tuple[int, ...], data: bytes, dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)
    return file.getvalue() + data


def long_header() -> bytes:
    return b"\x93NUMPY\2\0" + struct.pack("<L", BIG) + bytes(BIG)


PIXELS = (2, 4, 4, 3)
MEMBERS: dict[str, tuple[bytes, int, str]] = {
    "bzip2": (npy(PIXELS, bytes(96)), zipfile.ZIP_BZIP2, "compressed by bzip2"),
    "lzma": (npy(PIXELS, bytes(96)), zipfile.ZIP_LZMA, "compressed by LZMA"),
    "long header": (
        long_header(),
        0,
        r"cannot read array .* format is \(2, 0\)",
    ),
    "more than is there": (npy((2**40, 4, 4, 3), bytes(96)), 0, "declares .* and has 96"),
    "less than is there": (npy(PIXELS, bytes(97)), 0, "declares 96 bytes and has 97"),
    "a product beyond 64 bits": (npy((2**32, 2**32, 1, 3), b""), 0, "declares"),
    "a negative size": (npy((-2, -4, 4, 3), bytes(96)), 0, "cannot read array 'image'"),
    "objects": (npy(PIXELS, bytes(96), "|O"), 0, "Python objects"),
    "an archive": (b"PK\5\6" + bytes(18), 0, "cannot read array 'image'"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_members_of_an_npz_file_are_checked_before_they_are_read(case: str, tmp_path: Path) -> None:
    member, method, words = MEMBERS[case]
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", method) as opened:
        opened.writestr("image.npy", member)
        opened.writestr("label.npy", npy((2,), b"\0\1"))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words):
            prepare_dataset(f"npz:{tmp_path / 'bad.npz'}", tmp_path / "out", progress=False)
        assert tracemalloc.get_traced_memory()[1] < FLAT
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "out").exists()


def test_labels_that_are_durations_are_no_labels(tmp_path: Path) -> None:
    images = np.zeros(PIXELS, np.uint8)
    np.savez(tmp_path / "bad.npz", image=images, label=np.arange(2).astype("m8[s]"))
    with pytest.raises(UserError, match="must be 2 integers"):
        prepare_dataset(f"npz:{tmp_path / 'bad.npz'}", tmp_path / "out", progress=False)


def test_images_larger_than_any_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 7)
    np.savez(tmp_path / "bad.npz", image=np.zeros(PIXELS, np.uint8), label=np.arange(2))
    with pytest.raises(UserError, match="2 images of 4 x 4 are too many"):
        prepare_dataset(f"npz:{tmp_path / 'bad.npz'}", tmp_path / "out", progress=False)
