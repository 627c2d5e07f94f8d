"""Writing FFCV's file format (`.beton`) in one pass.

FFCV's own writer waits for ever when one of its processes fails (a damaged image, a full disk) and
needs to know the number of samples before it has read them. This one raises, and takes what comes.
Layout: header, field descriptions, one record per sample, pages of pixel data (no sample crosses
a page), table of all data regions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from dynat_ray.data.ffcv_library import ffcv_module

_SMALLEST_PAGE = 2**21
_FIELD_NAMES = ("image", "label")


class Output(Protocol):
    """Where a beton goes: its beginning, which is known last, and what follows that."""

    def begin(self, start: int) -> None:
        """Leaves out the first `start` bytes."""

    def write(self, data: bytes | memoryview) -> object:
        """Appends data."""

    def cut(self) -> None:
        """Says that no sample lies on both sides of what follows."""

    def close(self, head: bytes) -> None:
        """Writes the first bytes and ends."""


class WholeFile:
    """A beton in one file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.write = self._file.write

    def begin(self, start: int) -> None:
        self._file.seek(start)

    def cut(self) -> None:
        """It stays in one piece."""

    def close(self, head: bytes) -> None:
        with self._file as file:
            file.seek(0)
            file.write(head)


class BetonWriter:
    """Appends encoded images and labels to a beton."""

    def __init__(self, output: Output, most_samples: int, largest: int) -> None:
        """Starts the file.

        Args:
            output: Where.
            most_samples: Room for so many samples is reserved.
            largest: Bytes of the largest sample.
        """
        self._types = ffcv_module("types")
        fields = ffcv_module("fields")
        self._fields = [fields.RGBImageField(), fields.IntField()]
        self._page_size = max(_SMALLEST_PAGE, 1 << (largest - 1).bit_length())
        self._records = np.zeros(most_samples, self._types.get_metadata_type(self._fields))
        self._regions = np.zeros(most_samples, self._types.ALLOC_TABLE_TYPE)
        self._modes = ffcv_module("fields.rgb_image").IMAGE_MODES
        self._count = 0
        start = (
            self._types.HeaderType.itemsize
            + len(self._fields) * self._types.FieldDescType.itemsize
            + self._records.nbytes
        )
        self._position = -(-start // self._page_size) * self._page_size
        self._output = output
        self._output.begin(self._position)

    def add(self, data: bytes | memoryview, mode: str, size: tuple[int, int], label: int) -> None:
        """Appends a sample.

        Args:
            data: RGB pixels (`raw`) or a JPEG file (`jpg`).
            mode: `raw` or `jpg`.
            size: Height and width in pixels.
            label: Its class.
        """
        length = len(data)
        room = -self._position % self._page_size or self._page_size
        if length > room:
            self._output.write(bytes(room))
            self._position += room
        image = self._records["f0"][self._count]
        image["mode"], (image["height"], image["width"]) = self._modes[mode], size
        image["data_ptr"] = self._position
        self._records["f1"][self._count] = label
        self._regions[self._count] = (self._count, self._position, length)
        self._output.write(data)
        self._position += length
        self._count += 1

    def cut(self) -> None:
        """Ends a part with the last sample, where the file is written in parts."""
        self._output.cut()

    def close(self) -> None:
        """Completes the file."""
        self.cut()
        # FFCV reads whole pages.
        padding = -self._position % self._page_size
        header = np.zeros(1, self._types.HeaderType)[0]
        header["version"] = self._types.CURRENT_VERSION
        header["num_fields"] = len(self._fields)
        header["page_size"] = self._page_size
        header["num_samples"] = self._count
        header["alloc_table_ptr"] = self._position + padding
        self._output.write(bytes(padding))
        self._output.write(self._regions[: self._count].tobytes())
        records = self._records[: self._count].tobytes()
        self._output.close(header.tobytes() + self._descriptions().tobytes() + records)

    def _descriptions(self) -> np.ndarray:
        numbers = {kind: number for number, kind in self._types.TYPE_ID_HANDLER.items()}
        described = np.zeros(len(self._fields), self._types.FieldDescType)
        for row, name, field in zip(described, _FIELD_NAMES, self._fields, strict=True):
            row["type_id"] = numbers[type(field)]
            row["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
            row["arguments"][:] = field.to_binary()[0]
        return described
