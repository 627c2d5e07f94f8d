"""Whole splits of a prepared data set as tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.ffcv_reader import FfcvReader, read_labels
from dynat_ray.data.fitting import fit_square
from dynat_ray.data.info import DatasetInfo, is_copy, read_info, require_split
from dynat_ray.data.needed_parts import require_images, require_tables, tables_to_fetch
from dynat_ray.data.store_copy import data_folder, require_undamaged
from dynat_ray.data.subsets import Indices, balanced_subset
from dynat_ray.errors import UserError

_BATCH = 256


@dataclass(frozen=True)
class StoredImages:
    """The images of a split, or some of them, with what is known of all.

    Attributes:
        images: uint8 `(M, C, H, W)`, on the CPU. Where images have different sizes, each lies in
            the upper left corner, and the rest is 0.
        used: Which these are, int64 `(M,)`; None: all, M = N.
        labels: int64 `(N,)`, of the whole split.
        sizes: Height and width of each image in pixels, int64 `(N, 2)`, of the whole split.
    """

    images: Tensor
    used: Indices | None
    labels: Tensor
    sizes: Tensor


def load_split(
    path: Path | str,
    split: str,
    *,
    limit: int = 0,
    image_size: int = 0,
    positions: Indices | None = None,
) -> tuple[Tensor, Tensor]:
    """Reads a split, or a part of it, in source order.

    Args:
        path: Prepared folder.
        split: `train` or `test`.
        limit: Take a class-balanced part of so many images; 0: all.
        image_size: Height and width in pixels to bring the images to; 0: as stored.
        positions: Take these images instead of `limit`.

    Returns:
        uint8 images `(N, C, H, W)` and int64 labels `(N,)`, on the CPU.

    Raises:
        UserError: The folder or split is missing or damaged, or the images have different sizes
            and `image_size` is 0.
    """
    stored = read_stored(path, split, limit=limit, image_size=image_size, positions=positions)
    if stored.used is None:
        return stored.images, stored.labels
    return stored.images, stored.labels[torch.from_numpy(stored.used)]


def read_stored(
    path: Path | str,
    split: str,
    *,
    limit: int = 0,
    image_size: int = 0,
    positions: Indices | None = None,
    whole: bool = False,
) -> StoredImages:
    """Reads a split, or a part of it, in source order, and tells of all its images.

    Args:
        path: Prepared folder.
        split: `train` or `test`.
        limit: See `load_split`.
        image_size: Likewise.
        positions: Likewise.
        whole: Read images of different sizes as they are, too, with an `image_size` of 0.

    Raises:
        UserError: As `load_split`, but for the sizes where `whole` is given.
    """
    folder = data_folder(path)
    info = read_info(folder)
    require_split(info, folder, split)
    file = folder / f"{split}.safetensors"
    if file.name not in info.files:
        reader = _open_beton(info, folder / f"{split}.beton", image_size, whole, positions)
        used = _choose(reader.labels, limit, positions)
        chosen = np.arange(len(reader.labels)) if used is None else used
        images = _decode(reader, chosen, image_size)
        return StoredImages(images, used, reader.labels, reader.sizes)
    images, labels = _read_tensors(info, file, "images", "labels", used=positions)
    sizes = torch.tensor(images.shape[2:]).expand(len(labels), 2)
    used = _choose(labels, limit, positions)
    if used is not None:
        images = images[torch.from_numpy(used)]
    return StoredImages(fit_square(images, image_size), used, labels, sizes)


def open_split(path: Path | str, split: str, *, image_size: int = 0) -> Callable[[Indices], Tensor]:
    """Opens a split of which parts are to be read, one after the other.

    Args:
        path: Prepared folder.
        split: `train` or `test`.
        image_size: See `load_split`.

    Returns:
        What reads the images at given places, as `load_split` does.

    Raises:
        UserError: As `load_split`.
    """
    folder = data_folder(path)
    info = read_info(folder)
    require_split(info, folder, split)
    file = folder / f"{split}.safetensors"
    if file.name not in info.files:
        reader = _open_beton(info, folder / f"{split}.beton", image_size)
        return lambda chosen: _decode(reader, chosen, image_size)
    (images,) = _read_tensors(info, file, "images")
    return lambda chosen: fit_square(images[torch.from_numpy(chosen)], image_size)


def load_labels(path: Path | str, split: str) -> Tensor:
    """Reads the labels of a split alone.

    Args:
        path: Prepared folder.
        split: `train` or `test`.

    Returns:
        int64 labels `(N,)` in source order.

    Raises:
        UserError: The folder or split is missing or damaged.
    """
    folder = data_folder(path)
    info = read_info(folder)
    require_split(info, folder, split)
    tensors, beton = folder / f"{split}.safetensors", folder / f"{split}.beton"
    both = {tensors.name, beton.name} <= info.files.keys() and not ffcv_problem()
    # Of a copy, from the file that says them in fewer bytes.
    smaller = both and tables_to_fetch(info, beton) < tables_to_fetch(info, tensors)
    if smaller or tensors.name not in info.files:
        return torch.from_numpy(read_labels(info, beton))
    return _read_tensors(info, tensors, "labels")[0]


def load_test_images(
    path: Path | str, limit: int | None = None, *, image_size: int = 0
) -> tuple[Tensor, Tensor]:
    """Reads the test split in the form that attacks take, in source order.

    Args:
        path: Prepared folder.
        limit: Take a class-balanced part of so many images; None or 0: all.
        image_size: See `load_split`.

    Returns:
        float32 images `(N, C, H, W)` in [0, 1] and int64 labels `(N,)`.

    Raises:
        UserError: As `load_split`.
    """
    images, labels = load_split(path, "test", limit=limit or 0, image_size=image_size)
    return images.to(torch.float32).div_(255), labels


def _read_tensors(
    info: DatasetInfo, file: Path, *names: str, used: Indices | None = None
) -> list[Tensor]:
    """Returns tensors of a split, once they are what the description says.

    Args:
        info: The description.
        file: Of the split.
        names: `images`, `labels`.
        used: Which of the images will be looked at, int64; None: all.

    Raises:
        UserError: The file is missing or damaged, or holds anything else.
    """
    if "images" in names:
        require_images(info, file, used)
    elif is_copy(file.parent):
        require_tables(info, file)
    require_undamaged(info, file)
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = [stored.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0][:200]}") from None
    count = info.counts[file.stem]
    for name, tensor in zip(names, tensors, strict=True):
        labels = name == "labels"
        shape = () if labels or info.size is None else (info.channels, *info.size)
        fits = tensor.dtype == (torch.int64 if labels else torch.uint8)
        if (
            not fits
            or tensor.shape != (count, *shape)
            or (labels and not _are_classes(tensor, info))
        ):
            raise UserError(f"{file} holds {name} that are not those of its dataset.json")
    return tensors


def _are_classes(labels: Tensor, info: DatasetInfo) -> bool:
    return bool(((labels >= 0) & (labels < info.num_classes)).all())


def _choose(labels: Tensor, limit: int, positions: Indices | None) -> Indices | None:
    """Returns which images to read; None: all."""
    if positions is None and 0 < limit < len(labels):
        return balanced_subset(labels.numpy(), limit)
    return positions


def _open_beton(
    info: DatasetInfo,
    file: Path,
    image_size: int,
    whole: bool = False,
    used: Indices | None = None,
) -> FfcvReader:
    return FfcvReader(
        info,
        file,
        device=torch.device("cpu"),
        batch_size=_BATCH,
        side=0 if info.storage == "raw" else image_size,
        whole=whole,
        used=used,
    )


def _decode(reader: FfcvReader, chosen: Indices, image_size: int) -> Tensor:
    images = torch.empty(0, dtype=torch.uint8)
    filled = 0
    for batch in reader.batches(chosen.astype(np.int64)):
        part = fit_square(batch.permute(0, 3, 1, 2), image_size)
        if not filled:
            images = torch.empty(len(chosen), *part.shape[1:], dtype=torch.uint8)
        images[filled : filled + len(part)] = part
        filled += len(part)
    return images
