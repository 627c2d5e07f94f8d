"""What `dataset.json` says about a prepared data-set folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from dynat_ray.bounded_file import read_bounded
from dynat_ray.data.account import Account, read_account
from dynat_ray.errors import UserError

ClassOrder = Literal["text", "number", "source"]

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
COPIED_FROM = "copied-from"
"""Beside it in a copy of a data set that lies in an object store: the address."""
LARGEST_TENSOR_FILE = 2 * 2**30
"""Bytes of pixels up to which a split is also stored as safetensors, and checked when opened."""


@dataclass(kw_only=True)
class StoredFile:
    """What a stored file must look like, so that a damaged one is noticed before it is used.

    Attributes:
        bytes: Length.
        crc32: CRC-32 of the content.
    """

    bytes: int
    crc32: int


@dataclass(kw_only=True)
class DatasetInfo:
    """A prepared data set.

    Attributes:
        name: Short name, such as `digits`.
        source: The SOURCE it was prepared from.
        classes: Class names; a label is a position in this list.
        channels: 1 (grey) or 3 (RGB).
        size: Height and width in pixels if all images share them, else None.
        storage: `raw` (exact pixels) or `jpeg` (re-encoded, longest side at most `max_side`).
        max_side: Longest side in pixels of images stored as JPEG; 0 for raw ones.
        counts: Images in each split (`train`, `test`).
        mean: Mean of each channel over the training split, in [0, 1] pixels.
        std: Standard deviation likewise.
        checksum: SHA-256 over stored pixels and labels of all splits.
        skipped: Unreadable files that `--skip-bad` left out.
        options: What `dynat_ray.prepare` was given beside SOURCE and `--out`.
        class_order: What the order of the classes follows: their names as `text`, their value
            where all of them are numbers (`number`: 1, 2, 10, which as text is 1, 10, 2), or the
            `source`.
        account: What became of the images of the source.
        files: What each stored file must look like, by file name.
        parts: What the parts must look like in which a file lies in an object store, in order, by
            file name; empty for a folder.
        format_version: Version of this layout.
    """

    name: str
    source: str
    classes: list[str]
    channels: int
    size: tuple[int, int] | None
    storage: Literal["raw", "jpeg"]
    max_side: int
    counts: dict[str, int]
    mean: list[float]
    std: list[float]
    checksum: str
    skipped: int = 0
    options: list[str] = field(default_factory=list)
    class_order: ClassOrder = "text"
    account: Account = field(default_factory=Account)
    files: dict[str, StoredFile] = field(default_factory=dict)
    parts: dict[str, list[StoredFile]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def size_at(self, image_size: int) -> tuple[int, int] | None:
        """Returns height and width under `data.image_size`, None if images have several sizes.

        Args:
            image_size: Side in pixels that they are brought to; 0: as stored.
        """
        return (image_size, image_size) if image_size else self.size

    def command(self, folder: Path | str) -> str:
        """Returns the command that prepares the same data set in a folder, or at an address."""
        words = [self.source, *self.options, "--out", str(folder)]
        return f"python -m dynat_ray.prepare {shlex.join(words)}"

    def save(self, folder: Path) -> None:
        """Writes `dataset.json` into `folder`."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_info(folder: Path) -> DatasetInfo:
    """Reads `dataset.json` of a prepared folder.

    Raises:
        UserError: The folder is missing, was not prepared, or its description is damaged.
    """
    hint = _how_to_make(folder)
    try:
        if not (folder / DESCRIPTION).is_file():
            raise FileNotFoundError
        text = read_bounded(folder / DESCRIPTION)
    except FileNotFoundError:
        what = "has no dataset.json" if folder.is_dir() else "does not exist"
        raise UserError(f"data folder {folder} {what}; {hint}") from None
    except OSError as error:
        raise UserError(f"cannot read {folder / DESCRIPTION} ({error}); {hint}") from None
    return parse_info(text, str(folder), hint)


def parse_info(text: bytes, place: str, hint: str) -> DatasetInfo:
    """Returns what the content of a `dataset.json` says.

    Args:
        text: The content; who wrote it is not known.
        place: Folder or address of the data set.
        hint: What the user can do where it is damaged.

    Raises:
        UserError: It is damaged, or of another version.
    """
    try:
        values = json.loads(text)
        version = values["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{place}/{DESCRIPTION} is damaged; {hint}") from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"data set {place} has format {version!r:.20}, this version reads "
            f"{FORMAT_VERSION}; {hint}"
        )
    try:
        values["size"] = tuple(values["size"]) if values["size"] else None
        values["files"] = {name: StoredFile(**stored) for name, stored in values["files"].items()}
        values["parts"] = {
            name: [StoredFile(**part) for part in parts]
            for name, parts in values.get("parts", {}).items()
        }
        if "account" in values:
            values["account"] = read_account(values["account"])
        info = DatasetInfo(**values)
        sound = _is_sound(info)
    except (KeyError, TypeError, AttributeError, OverflowError):
        sound = False
    if not sound:
        raise UserError(f"{place}/{DESCRIPTION} is damaged; {hint}")
    return info


def _how_to_make(folder: Path) -> str:
    """Returns what to do where a folder is no data set: images, perhaps, that become one."""
    with suppress(OSError):
        taken = bool(os.listdir(folder)) if folder.is_dir() else folder.exists()
        if taken and not (folder / DESCRIPTION).is_file():
            source = shlex.quote(f"folder:{folder}")
            return (
                "if images lie there, make a data set of them with: python -m "
                f"dynat_ray.prepare {source} --out DIR, and give DIR"
            )
    return f"make it with: python -m dynat_ray.prepare SOURCE --out {shlex.quote(str(folder))}"


def _is_sound(info: DatasetInfo) -> bool:
    """Returns whether the values are of a data set; who wrote the file is not known."""
    texts = [info.name, info.source, info.checksum, *info.classes, *info.options, *info.counts]
    whole = [info.skipped, *info.counts.values(), info.max_side]
    parts = [part for each in info.parts.values() for part in each]
    whole += [n for file in (*info.files.values(), *parts) for n in vars(file).values()]
    sides = [info.max_side] if info.size is None else list(info.size)
    raw = info.storage == "raw" and len(sides) == 2
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) and number >= 0 for number in whole)
        and all(isinstance(side, int) and side > 0 for side in sides)
        and (raw or info.storage == "jpeg")
        and all(_make_up(parts, info.files.get(name)) for name, parts in info.parts.items())
        and info.class_order in get_args(ClassOrder)
        and info.num_classes > 0
        and info.channels in (1, 3)
        and len(info.mean) == len(info.std) == info.channels
        and all(math.isfinite(number) for number in (*info.mean, *info.std))
    )


def _make_up(parts: list[StoredFile], file: StoredFile | None) -> bool:
    return file is not None and sum(part.bytes for part in parts) == file.bytes


def describe_file(path: Path) -> StoredFile:
    """Returns length and CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
        return StoredFile(bytes=file.tell(), crc32=checksum)


def is_copy(folder: Path) -> bool:
    """Returns whether a folder is a copy of what lies in an object store, perhaps not yet whole."""
    return (folder / COPIED_FROM).is_file()


def require_split(info: DatasetInfo, folder: Path, split: str) -> None:
    """Raises `UserError` if the data set has no such split."""
    if split not in info.counts:
        raise UserError(f"data set {folder} has no {split} split, only {', '.join(info.counts)}")


def different_sizes(folder: Path) -> UserError:
    """Returns what is wrong where images of a data set can't make a batch."""
    return UserError(
        f"the images of {folder} have different sizes; set data.image_size, or prepare them with "
        "--size"
    )


def require_intact(info: DatasetInfo, file: Path) -> None:
    """Raises `UserError` if a stored file is missing or differs from what was written.

    FFCV reads through raw pointers: a damaged file would end the process, not raise. The length
    is always compared; the content where reading it through takes a second or two at most.
    """
    wanted = info.files.get(file.name)
    hint = f"prepare it again: {info.command(file.parent)}"
    if wanted is None or not file.is_file():
        raise UserError(f"{file} is missing; {hint}")
    found = file.stat().st_size
    if found != wanted.bytes:
        raise UserError(f"{file} is damaged: {found} bytes instead of {wanted.bytes}; {hint}")
    if found <= LARGEST_TENSOR_FILE and describe_file(file) != wanted:
        raise UserError(f"{file} is damaged: its checksum is wrong; {hint}")
