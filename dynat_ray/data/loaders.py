"""Batches of a prepared data set on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.data.ffcv_reader import FfcvReader
from dynat_ray.data.fitting import fit_square
from dynat_ray.data.info import DatasetInfo, load_info, require_split
from dynat_ray.data.memory_reader import MemoryReader
from dynat_ray.data.order import EpochOrder
from dynat_ray.data.stored import load_labels, load_split
from dynat_ray.data.subsets import Indices
from dynat_ray.errors import UserError

Kind = Literal["auto", "ffcv", "memory"]


@dataclass
class RawBatch:
    """Images as stored, this worker's share of a global batch.

    Attributes:
        images: uint8 `(B, C, H, W)` on the device.
        labels: int64 `(B,)` on the device.
        indices: int64 `(B,)` on the device; an extra image's index is the number of images of the
            split plus its position in the extra set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class Reader(Protocol):
    """What decodes the images of one split."""

    labels: Tensor
    kind: str

    def batches(self, indices: Indices, epoch: int) -> Iterator[Tensor]:
        """Yields uint8 `(B, H, W, C)` on the device for consecutive parts of `indices`."""

    def close(self) -> None:
        """Frees what it holds."""


class Loader:
    """This worker's batches of every epoch, from one reader, or two with extra data.

    Attributes:
        kind: `ffcv` or `memory`: what is really used.
        crops: Whether images come randomly cropped from the decoder, so that the augmentation
            must not crop again.
    """

    def __init__(
        self,
        order: EpochOrder,
        reader: Reader,
        extra: Reader | None,
        *,
        device: torch.device,
        channels_last: bool,
        image_size: int,
        crops: bool,
    ) -> None:
        """Made by `build_loader`."""
        self.kind = reader.kind
        self.crops = crops
        self._order = order
        self._reader, self._extra = reader, extra
        self._device = device
        self._image_size = image_size
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        labels = [reader.labels] if extra is None else [reader.labels, extra.labels]
        self._labels = torch.cat(labels).to(device)

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every worker."""
        return self._order.steps

    @property
    def global_sizes(self) -> list[int]:
        """Samples of each global batch."""
        return self._order.global_sizes

    def iterate(self, epoch: int, start_step: int = 0) -> Iterator[RawBatch]:
        """Yields the batches of an epoch.

        Args:
            epoch: Which, from 0.
            start_step: Leave out so many batches (without decoding them).

        Raises:
            RuntimeError: The reader failed.
        """
        local = self._order.local(epoch)[start_step * self._order.local_batch :]
        if not len(local):
            return
        indices = torch.from_numpy(local).to(self._device, non_blocking=True)
        chunks = torch.split(indices, self._order.local_batch)
        for pixels, chunk in zip(self._pixels(local, epoch), chunks, strict=True):
            images = fit_square(pixels.permute(0, 3, 1, 2), self._image_size)
            images = images.contiguous(memory_format=self._format)
            yield RawBatch(images, self._labels[chunk], chunk)

    def close(self) -> None:
        """Stops decoding and frees the images."""
        for reader in (self._reader, self._extra):
            if reader is not None:
                reader.close()

    def _pixels(self, local: Indices, epoch: int) -> Iterator[Tensor]:
        if self._extra is None:
            yield from self._reader.batches(local, epoch)
            return
        real, steps = self._order.local_real, len(local) // self._order.local_batch
        table = local.reshape(steps, -1)
        first_extra = len(self._reader.labels)
        parts = []
        if real:
            parts.append(self._reader.batches(table[:, :real].ravel(), epoch))
        if real < self._order.local_batch:
            parts.append(self._extra.batches(table[:, real:].ravel() - first_extra, epoch))
        for pieces in zip(*parts, strict=True):
            yield torch.cat(pieces)


def build_loader(
    path: Path | str,
    split: str,
    *,
    indices: np.ndarray,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    kind: Kind = "auto",
    device: torch.device,
    shuffle: bool,
    balance: bool = False,
    threads: int = 1,
    channels_last: bool = True,
    image_size: int = 0,
    random_resized_crop: bool = False,
    extra_path: str = "",
    extra_fraction: float = 0.0,
) -> Loader:
    """Builds this worker's loader.

    Global batches depend on (seed, epoch) alone, not on the number of workers or the loader.

    Args:
        path: Prepared folder.
        split: `train` or `test`.
        indices: Samples of the split to use, at least one.
        batch_size: Samples of a global batch, at least `world_size`.
        seed: Seed of the order and of the decoder's crops.
        rank: This worker's number.
        world_size: Number of workers.
        kind: `ffcv`, `memory` (all images on the device), or `auto`: FFCV where it imports.
        device: Where batches go.
        shuffle: Another order each epoch; else that of `indices`.
        balance: Draw every class equally often.
        threads: CPU threads that decode.
        channels_last: Memory format of the images.
        image_size: Height and width to bring images to; 0: as stored.
        random_resized_crop: Let FFCV's decoder crop where it can (images stored as JPEG); see
            `Loader.crops`.
        extra_path: Prepared folder of extra training images; empty: none.
        extra_fraction: Part in [0, 1) of each batch that comes from there.

    Raises:
        UserError: A folder is missing or damaged or does not fit, or FFCV is needed and missing.
    """
    folder = Path(path).expanduser()
    info = load_info(folder)
    require_split(info, folder, split)
    extra_folder = Path(extra_path).expanduser()
    with_extra = bool(extra_path) and extra_fraction > 0
    extra_info = _load_extra(extra_folder, info) if with_extra else None
    chosen_kind = _choose_kind(kind, folder, info, split)
    first_extra = info.counts[split]
    order = EpochOrder(
        indices,
        batch_size,
        seed,
        rank,
        world_size,
        shuffle=shuffle,
        extra_indices=(
            first_extra,
            first_extra + (extra_info.counts["train"] if extra_info else 0),
        ),
        extra_fraction=extra_fraction if extra_info else 0.0,
    )
    readers = [(chosen_kind, info)]
    if extra_info is not None:
        extra_kind = _choose_kind(kind, extra_folder, extra_info, "train")
        readers.append((extra_kind, extra_info))
    # All images of a batch or none: the augmentation takes them together.
    crops = random_resized_crop and all(
        as_kind == "ffcv" and about.storage == "jpeg" for as_kind, about in readers
    )

    def open_reader(root: Path, about: DatasetInfo, name: str, size: int, as_kind: str) -> Reader:
        if as_kind == "memory":
            all_used = about is extra_info or len(indices) == about.counts[name]
            used = None if all_used else indices
            images, _ = load_split(root, name, image_size=image_size, positions=used)
            labels = load_labels(root, name)
            return MemoryReader(images, labels, used, device=device, batch_size=max(size, 1))
        return FfcvReader(
            about,
            root / f"{name}.beton",
            device=device,
            batch_size=max(size, 1),
            threads=threads,
            side=image_size if about.storage == "jpeg" else 0,
            crop_seed=seed if crops else None,
        )

    reader = open_reader(folder, info, split, order.local_real, chosen_kind)
    if balance:
        order.balance(reader.labels.numpy()[indices])
    extra = None
    if extra_info is not None:
        size = order.local_batch - order.local_real
        extra = open_reader(extra_folder, extra_info, "train", size, extra_kind)
    return Loader(
        order,
        reader,
        extra,
        device=device,
        channels_last=channels_last,
        image_size=image_size,
        crops=crops,
    )


def loader_kind(path: Path | str, kind: Kind) -> str:
    """Returns which loader the training split of a folder gets: `ffcv` or `memory`.

    Raises:
        UserError: `ffcv` is wanted, but FFCV or the data set's `.beton` is missing.
    """
    folder = Path(path).expanduser()
    return _choose_kind(kind, folder, load_info(folder), "train")


def _choose_kind(kind: Kind, folder: Path, info: DatasetInfo, split: str) -> str:
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


def _load_extra(folder: Path, info: DatasetInfo) -> DatasetInfo:
    extra = load_info(folder)
    require_split(extra, folder, "train")
    if extra.num_classes > info.num_classes:
        raise UserError(
            f"extra data {folder} has labels up to {extra.num_classes - 1}, but the data set has "
            f"{info.num_classes} classes"
        )
    # Labels of generated images are numbers; what they mean is not in the file.
    if not extra.source.startswith("npz:") and extra.classes != info.classes[: extra.num_classes]:
        number, name, own = next(
            (number, *names)
            for number, names in enumerate(zip(extra.classes, info.classes, strict=False))
            if names[0] != names[1]
        )
        raise UserError(
            f"extra data {folder} calls class {number} '{name}', the data set calls it '{own}'; "
            "prepare the extra data with the data set's class folders"
        )
    if (extra.channels, extra.size) != (info.channels, info.size):
        raise UserError(
            f"extra data {folder} has images of {extra.size} with {extra.channels} channels, the "
            f"data set {info.size} with {info.channels}; prepare it with --size"
        )
    return extra
