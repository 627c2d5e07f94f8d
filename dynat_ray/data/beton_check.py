"""Whether a `.beton` is what `prepare` writes, before FFCV follows the addresses in it.

FFCV reads and copies by raw pointers: an address outside of the file or a size that is not the
image's would read or write memory that is none of its. The tables are checked here, by plain NumPy;
pixels are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data.info import DatasetInfo
from dynat_ray.errors import UserError

_VERSION = 2
_HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
_FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", 16), ("arguments", "<u1", 1024)], align=True)
# FFCV's numbers of the types that are read here: an RGB image and a whole number.
_FIELDS = ((2, b"image"), (1, b"label"))
_IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_RECORD = np.dtype([("", _IMAGE), ("", "<i8")], align=True)
_REGION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_MODES = {"jpeg": 0, "raw": 1}


class _Unfit(ValueError):
    """What is wrong with a file, in words that follow its name."""


@dataclass(frozen=True)
class BetonTables:
    """What a file says of its images, all but their pixels.

    Attributes:
        labels: int64 `(N,)`.
        starts: First byte of each image in the file, uint64 `(N,)`.
        lengths: Bytes of each image, uint64 `(N,)`.
    """

    labels: NDArray[np.int64]
    starts: NDArray[np.uint64]
    lengths: NDArray[np.uint64]


def check_beton(info: DatasetInfo, file: Path) -> BetonTables:
    """Returns the tables of a file; raises `UserError` unless FFCV may read it.

    Args:
        info: The data set that it is of.
        file: Its `SPLIT.beton`.
    """
    try:
        with file.open("rb") as opened:
            length = opened.seek(0, 2)
            header = _check_header(opened, length)
            return _check_tables(opened, info, file.stem, header, length)
    except (OSError, _Unfit) as error:
        raise UserError(
            f"{file} is no file that FFCV may read: {error}; prepare it again: "
            f"{info.command(file.parent)}"
        ) from None


def _check_header(opened: Any, length: int) -> NDArray[Any]:
    """Returns the header, once it and the fields are what they should be."""
    header = _read(opened, _HEADER, 1, 0, length)[0]
    page = int(header["page_size"])
    _require(header["version"] == _VERSION, f"it has version {header['version']}")
    _require(header["num_fields"] == len(_FIELDS), f"it has {header['num_fields']} fields")
    _require(page > 0 and page & (page - 1) == 0, f"its pages have {page} bytes")
    fields = _read(opened, _FIELD, len(_FIELDS), _HEADER.itemsize, length)
    for field, (number, name) in zip(fields, _FIELDS, strict=True):
        found = field["name"].tobytes().rstrip(b"\0")
        _require(found == name, f"it has a field {found!r} in place of {name!r}")
        _require(field["type_id"] == number, f"field {name!r} is of type {field['type_id']}")
    return header  # type: ignore[no-any-return]


def _check_tables(
    opened: Any, info: DatasetInfo, split: str, header: NDArray[Any], length: int
) -> BetonTables:
    """Returns them, once they are what they should be."""
    count, table = int(header["num_samples"]), int(header["alloc_table_ptr"])
    _require(0 < count == info.counts.get(split), f"it has {count} images")
    first = _HEADER.itemsize + len(_FIELDS) * _FIELD.itemsize
    records = _read(opened, _RECORD, count, first, length)
    _require(table + count * _REGION.itemsize == length, "its table of regions is elsewhere")
    regions = _read(opened, _REGION, count, table, length)
    begin, size = regions["ptr"], regions["size"]
    images, labels = records["f0"], records["f1"]
    # Not their sum, which may pass the largest number.
    within = (begin >= first + records.nbytes) & (begin <= table) & (size > 0)
    _require(
        bool((within & (size <= table - np.minimum(begin, table))).all()), "a region leaves it"
    )
    order = np.argsort(begin, kind="stable")
    begin, size = begin[order], size[order]
    _require(bool((begin[1:] > begin[:-1]).all()), "two regions begin at one place")
    place = np.minimum(np.searchsorted(begin, images["data_ptr"]), count - 1)
    _require(bool((begin[place] == images["data_ptr"]).all()), "an image lies in no region")
    _check_images(info, images, size[place])
    _require(bool(((labels >= 0) & (labels < info.num_classes)).all()), "a label is no class")
    return BetonTables(labels.astype(np.int64), images["data_ptr"], size[place])


def _check_images(info: DatasetInfo, images: NDArray[Any], size: NDArray[np.uint64]) -> None:
    height, width = images["height"].astype(np.int64), images["width"].astype(np.int64)
    _require(bool((images["mode"] == _MODES[info.storage]).all()), "an image is stored otherwise")
    _require(bool(((height > 0) & (width > 0)).all()), "an image has no pixels")
    if info.size is not None:
        alike = (height == info.size[0]) & (width == info.size[1])
        _require(bool(alike.all()), "an image has another size")
    elif info.storage == "jpeg":
        largest = info.max_side
        _require(bool((np.maximum(height, width) <= largest).all()), f"an image exceeds {largest}")
    if info.storage == "raw":
        # FFCV copies as many bytes as the region has.
        _require(bool((size == 3 * height * width).all()), "a region has not its image's size")


def _read(opened: Any, kind: np.dtype[Any], count: int, start: int, length: int) -> NDArray[Any]:
    _require(start + count * kind.itemsize <= length, "its tables leave it")
    opened.seek(start)
    return np.fromfile(opened, kind, count)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _Unfit(otherwise)
