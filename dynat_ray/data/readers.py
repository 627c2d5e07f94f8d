"""What decodes the images of a split, chosen by the settings and by what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.ffcv_reader import FfcvReader
from dynat_ray.data.info import COPIED_FROM, DatasetInfo, is_copy, read_info
from dynat_ray.data.memory_reader import MemoryReader
from dynat_ray.data.needed_parts import ImagePlaces, has_images, require_images, require_tables
from dynat_ray.data.store_copy import Say, data_folder, lacking_parts
from dynat_ray.data.stored import read_stored
from dynat_ray.data.streamed_reader import StreamedReader
from dynat_ray.data.subsets import Indices
from dynat_ray.errors import UserError

Kind = Literal["auto", "ffcv", "memory"]


class Reader(Protocol):
    """What decodes the images of one split.

    Attributes:
        labels: int64 `(N,)`, on the CPU.
        sizes: Height and width of each stored image in pixels, int64 `(N, 2)`, on the CPU.
        kind: `ffcv` or `memory`.
    """

    labels: Tensor
    sizes: Tensor
    kind: str

    def batches(self, indices: Indices) -> Iterator[Tensor]:
        """Yields uint8 `(B, H, W, C)` on the device for consecutive parts of `indices`."""

    def close(self) -> None:
        """Frees what it holds."""


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """How images are read, and what they come out as.

    Attributes:
        device: Where batches go.
        kind: `ffcv`, `memory` (all images on the device), or `auto`: FFCV where it imports.
        streamed: Of a data set in a store, fetch single images while they are read.
        threads: CPU threads that decode.
        channels_last: Memory format of the images.
        image_size: Height and width in pixels to bring images to; 0: as stored.
        resized_crop: Bring a random part of each stored image to that size, instead of its centre.
            The part is cut out on the device, so that it has the same pixels whatever the reader.
            Images of different sizes therefore travel whole, as squares of the largest side (500
            pixels: 750 kB), and `memory` holds them like that. From those, FFCV and the crop took
            1.9 ms an image on one core; when FFCV cropped, by keys of its own, 1.7 ms.
    """

    device: torch.device
    kind: Kind = "auto"
    streamed: bool = False
    threads: int = 1
    channels_last: bool = True
    image_size: int = 0
    resized_crop: bool = False


def open_reader(
    folder: Path, split: str, used: Indices | None, batch_size: int, options: ReadingOptions
) -> Reader:
    """Opens the images of a split.

    Args:
        folder: Prepared folder.
        split: `train` or `test`.
        used: Which images will be read, int64; None: all.
        batch_size: Most images of a batch.
        options: How.

    Raises:
        UserError: A file is missing or damaged, or FFCV is needed and does not import.
    """
    info = read_info(folder)
    device, crops = options.device, options.resized_crop
    image_size = 0 if crops else options.image_size
    streamed = options.streamed and is_copy(folder)
    if streamed:
        require_streamable(folder, info)
    elif reader_kind(options.kind, folder, info, split) == "memory":
        stored = read_stored(folder, split, image_size=image_size, positions=used, whole=crops)
        return MemoryReader(stored, device=device, batch_size=batch_size)
    return (StreamedReader if streamed else FfcvReader)(
        info,
        folder / f"{split}.beton",
        device=device,
        batch_size=batch_size,
        threads=options.threads,
        side=image_size if info.storage == "jpeg" else 0,
        whole=crops,
        used=used,
    )


def fetch_split(
    path: Path | str,
    split: str,
    kind: Kind,
    say: Say | None = None,
    used: Indices | None = None,
) -> None:
    """Fetches what is read of a split that lies in an object store; nothing if it does not.

    Args:
        path: Folder or address of the data set.
        split: `train` or `test`.
        kind: As in `ReadingOptions`.
        say: Takes lines that tell how far it is; None: they go to stderr.
        used: Which images are read, int64; None: all.

    Raises:
        UserError: A part is missing or damaged, the store does not answer, or there is no room.
    """
    info, file = _read_file(path, split, kind)
    require_images(info, file, used, say)


def fetch_to_stream(path: Path | str, split: str, say: Say | None = None) -> None:
    """Fetches of a split in an object store what is read before single images are fetched.

    Args:
        path: Folder or address of the data set.
        split: `train` or `test`.
        say: As for `fetch_split`.

    Raises:
        UserError: As `fetch_split`; or images of the set can't be fetched one by one.
    """
    folder = data_folder(path)
    info = read_info(folder)
    if is_copy(folder):
        require_streamable(folder, info)
        require_tables(info, folder / f"{split}.beton", say)


def require_streamable(folder: Path, info: DatasetInfo) -> None:
    """Raises `UserError` unless single training images of a set in a store can be fetched.

    Args:
        folder: Its copy on this machine.
        info: What it is.
    """
    if problem := ffcv_problem():
        raise UserError(
            f"data.node_share stream takes FFCV, which does not import ({problem}); install it "
            "(pip install 'dynat-ray[ffcv]'), or set data.node_share to all"
        )
    if "train.beton" not in info.files:
        address = (folder / COPIED_FROM).read_text(encoding="utf-8")
        raise UserError(
            f"data.node_share is stream, but {address} was prepared without FFCV, as tensors "
            f"alone; prepare it where FFCV is installed ({info.command(address)}), or set "
            "data.node_share to all"
        )


def bytes_to_fetch(
    path: Path | str, split: str, kind: Kind, shares: Sequence[Indices]
) -> list[int]:
    """Returns for each of some shares of a split how much this machine lacks to read it.

    Args:
        path: Folder or address of the data set.
        split: `train` or `test`.
        kind: As in `ReadingOptions`.
        shares: Which images, int64 each.

    Returns:
        Bytes; 0 where all of it is here, as of a folder.

    Raises:
        UserError: As `fetch_split`.
    """
    info, file = _read_file(path, split, kind)
    if not is_copy(file.parent):
        return [0] * len(shares)
    places, lacking = ImagePlaces(info, file), lacking_parts(info, file)
    return [sum(lacking.get(each, 0) for each in places.parts(share)) for share in shares]


def kind_here(path: Path | str, split: str, used: Indices) -> Kind | None:
    """Returns what reads some images of a split without fetching anything; None: nothing can.

    Args:
        path: Folder or address of the data set.
        split: `train` or `test`.
        used: Which images, int64.

    Raises:
        UserError: As `load_info`; or a file is not what it should be.
    """
    folder = data_folder(path)
    info = read_info(folder)
    # First what reads a few images of a large set without decoding the others.
    if has_images(info, folder / f"{split}.safetensors", used):
        return "memory"
    return "auto" if has_images(info, folder / f"{split}.beton", used) else None


def _read_file(path: Path | str, split: str, kind: Kind) -> tuple[DatasetInfo, Path]:
    """Returns which file of a split is read."""
    folder = data_folder(path)
    info = read_info(folder)
    tensors, beton = folder / f"{split}.safetensors", folder / f"{split}.beton"
    is_beton = tensors.name not in info.files
    return info, beton if is_beton or reader_kind(kind, folder, info, split) == "ffcv" else tensors


def reader_kind(kind: Kind, folder: Path, info: DatasetInfo, split: str) -> str:
    """Returns what reads a split: `ffcv` or `memory`.

    Raises:
        UserError: `ffcv` is wanted, but FFCV or the split's `.beton` is missing.
    """
    if kind == "memory":
        return kind
    problem = ffcv_problem()
    has_beton = f"{split}.beton" in info.files
    if kind == "auto":
        return "ffcv" if has_beton and not problem else "memory"
    if problem:
        raise UserError(
            f"data.loader is ffcv, which does not import ({problem}); install it "
            "(pip install 'dynat-ray[ffcv]'), or use data.loader memory"
        )
    if not has_beton:
        raise UserError(
            f"{folder} was prepared without FFCV and has no {split}.beton; prepare it again: "
            f"{info.command(folder)}"
        )
    return kind
