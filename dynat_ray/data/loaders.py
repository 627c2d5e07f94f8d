"""Batches of a prepared data set on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dynat_ray.data.extra_images import ExtraImages, load_extra_info
from dynat_ray.data.ffcv_reader import FfcvReader
from dynat_ray.data.fitting import crop_randomly, fit_square
from dynat_ray.data.info import (
    DatasetInfo,
    different_sizes,
    is_copy,
    read_info,
    require_split,
)
from dynat_ray.data.order import BatchPlan, EpochOrder, Order
from dynat_ray.data.part_order import PartOrder
from dynat_ray.data.readers import (
    Kind,
    Reader,
    ReadingOptions,
    open_reader,
    reader_kind,
    require_streamable,
)
from dynat_ray.data.store_copy import data_folder
from dynat_ray.data.stored import load_labels
from dynat_ray.data.subsets import Indices
from dynat_ray.keyed_random import combine


@dataclass
class RawBatch:
    """Images before augmentation, this worker's share of a global batch.

    Attributes:
        images: uint8 `(B, C, H, W)` on the device.
        labels: int64 `(B,)` on the device.
        indices: int64 `(B,)` on the device; an extra image's index is the number of images of the
            split plus its position in the extra set.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class Loader:
    """This worker's batches of every epoch, from one reader, or two with extra images.

    Attributes:
        kind: `ffcv` or `memory`: what is really used.
    """

    def __init__(
        self,
        order: Order,
        readers: list[Reader],
        options: ReadingOptions,
        *,
        seed: int,
        size: tuple[int, int] | None,
    ) -> None:
        """Made by `build_loader`.

        Args:
            order: Which images each batch holds.
            readers: Of the data set, and of the extra images if there are any.
            options: How images are read.
            seed: Seed of the random parts of images.
            size: Height and width in pixels that these are brought to; None: there are none.
        """
        self.kind = readers[0].kind
        self._order = order
        self._readers = readers
        self._device = options.device
        self._image_size = options.image_size
        self._format = torch.channels_last if options.channels_last else torch.contiguous_format
        self._seed, self._crop_size = seed, size
        self._labels = torch.cat([reader.labels for reader in readers]).to(self._device)
        self._sizes = torch.cat([reader.sizes for reader in readers])

    @property
    def samples(self) -> int:
        """Samples that an epoch is made for; extra data do not count."""
        return self._order.samples

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
        places = torch.from_numpy(local).split(self._order.local_batch)
        indices = torch.from_numpy(local).to(self._device, non_blocking=True)
        chunks = indices.split(self._order.local_batch)
        for pixels, where, chunk in zip(self._pixels(local), places, chunks, strict=True):
            images = self._fit(pixels.permute(0, 3, 1, 2), where, epoch)
            images = images.contiguous(memory_format=self._format)
            yield RawBatch(images, self._labels[chunk], chunk)

    def close(self) -> None:
        """Stops decoding and frees the images."""
        for reader in self._readers:
            reader.close()

    def _fit(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        """Brings images to their size; `indices` `(B,)` are on the CPU, so that none waits."""
        if self._crop_size is None:
            return fit_square(images, self._image_size)
        keys = combine(self._seed, epoch, indices)
        return crop_randomly(images, self._sizes[indices], keys, self._crop_size)

    def _pixels(self, local: Indices) -> Iterator[Tensor]:
        if len(self._readers) == 1:
            yield from self._readers[0].batches(local)
            return
        own, extra = self._readers
        real, steps = self._order.local_real, len(local) // self._order.local_batch
        table = local.reshape(steps, -1)
        parts = []
        if real:
            parts.append(own.batches(table[:, :real].ravel()))
        if real < self._order.local_batch:
            parts.append(extra.batches(table[:, real:].ravel() - len(own.labels)))
        for pieces in zip(*parts, strict=True):
            yield torch.cat(pieces)


def build_loader(
    path: Path | str,
    split: str,
    indices: Indices,
    plan: BatchPlan,
    options: ReadingOptions,
    extra: ExtraImages | None = None,
) -> Loader:
    """Builds this worker's loader.

    Global batches depend on (seed, epoch) alone, not on the number of workers or the reader.

    Args:
        path: Prepared folder.
        split: `train` or `test`.
        indices: Samples of the split to use, at least one, int64 `(N,)`, ascending.
        plan: How they make batches.
        options: How they are read.
        extra: Extra training images.

    Raises:
        UserError: A folder is missing or damaged or does not fit, or FFCV is needed and missing.
    """
    folder = data_folder(path)
    info = read_info(folder)
    require_split(info, folder, split)
    total = info.counts[split]
    extra_count, extra_fraction = 0, 0.0
    if extra is not None and extra.fraction > 0:
        extra_folder = data_folder(extra.path)
        extra_count = load_extra_info(extra_folder, info).counts["train"]
        extra_fraction = extra.fraction
    order: Order
    if plan.node_share == "part":
        assert not extra_count
        order = PartOrder(indices, plan)
    else:
        order = EpochOrder(
            indices,
            plan,
            labels=load_labels(folder, split).numpy()[indices] if plan.balance else None,
            extra_indices=(total, total + extra_count),
            extra_fraction=extra_fraction,
        )
    size = _crop_size(info, folder, options)
    used = None if len(order.own) == total else order.own
    readers = [open_reader(folder, split, used, max(order.local_real, 1), options)]
    if extra_count:
        share = order.local_batch - order.local_real
        readers.append(open_reader(extra_folder, "train", None, max(share, 1), options))
    return Loader(order, readers, options, seed=plan.seed, size=size)


def loader_kind(path: Path | str, kind: Kind, *, streamed: bool = False) -> str:
    """Returns which loader the training split of a folder gets: `ffcv` or `memory`.

    Args:
        path: Folder or address of the data set.
        kind: As in `ReadingOptions`.
        streamed: Likewise.

    Raises:
        UserError: `ffcv` or `streamed` is wanted, but FFCV or the data set's `.beton` is missing.
    """
    folder = data_folder(path)
    info = read_info(folder)
    if streamed and is_copy(folder):
        require_streamable(folder, info)
        return FfcvReader.kind
    return reader_kind(kind, folder, info, "train")


def _crop_size(info: DatasetInfo, folder: Path, options: ReadingOptions) -> tuple[int, int] | None:
    """Returns what size random parts of images are brought to; None: the whole are used."""
    if not options.resized_crop:
        return None
    size = info.size_at(options.image_size)
    if size is None:
        raise different_sizes(folder)
    return size
