"""Reading images from a tensor that holds all of them on the device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dynat_ray.data.stored import StoredImages
from dynat_ray.data.subsets import Indices


class MemoryReader:
    """One split's images, all on the device.

    Attributes:
        labels: int64 `(N,)`, on the CPU.
        sizes: Height and width of each image in pixels, int64 `(N, 2)`, on the CPU.
    """

    kind = "memory"

    def __init__(self, stored: StoredImages, *, device: torch.device, batch_size: int) -> None:
        """Takes images of a split to the device.

        Args:
            stored: The split, with those of its images that are used.
            device: Where they go.
            batch_size: Most images of a batch.
        """
        self._places: Tensor | None = None
        if stored.used is not None:
            self._places = torch.full((len(stored.labels),), -1)
            self._places[torch.from_numpy(stored.used)] = torch.arange(len(stored.used))
        # Channels last, so that an image is one run of bytes.
        self._images = stored.images.permute(0, 2, 3, 1).contiguous().to(device)
        self._batch_size = batch_size
        self.labels, self.sizes = stored.labels, stored.sizes

    def batches(self, indices: Indices) -> Iterator[Tensor]:
        """Yields uint8 `(B, H, W, C)` on the device for consecutive `batch_size` of `indices`."""
        positions = torch.from_numpy(indices)
        if self._places is not None:
            positions = self._places[positions]
        positions = positions.to(self._images.device, non_blocking=True)
        for chosen in torch.split(positions, self._batch_size):
            yield self._images.index_select(0, chosen)

    def close(self) -> None:
        """Frees the images."""
        self._images = self._images[:0].clone()
