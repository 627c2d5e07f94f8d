"""Augmentation on the device, in batches, as a function of (seed, epoch, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dynat_ray.augmentation_names import read_augmentations
from dynat_ray.data.placing import Placement
from dynat_ray.data.randaugment import RandAugment
from dynat_ray.keyed_random import combine, uniform


@dataclass(frozen=True)
class Batch:
    """What a method trains on.

    Attributes:
        images: float32 `(B, C, H, W)` in [0, 1].
        labels: int64 `(B,)`.
        indices: int64 `(B,)`, see `RawBatch`.
        targets: float32 `(B, K)` soft labels if images were mixed, else None.
        carried: What the attack had changed in the epoch before, float32 `(B, C, H, W)`, all 0 for
            a sample that it had not changed; None: nothing is carried along.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    targets: Tensor | None = None
    carried: Tensor | None = None

    @property
    def main_labels(self) -> Tensor:
        """int64 `(B,)`: the class that most of each image shows, which attacks move away from.

        A mixed image may show less of its own class than of its partner's.
        """
        return self.labels if self.targets is None else self.targets.argmax(dim=1)


class Augmentation:
    """Random changes of images; an image's depend on seed, epoch and its index alone.

    So its pixels are the same whatever loader, number of workers or place in the run it comes
    from. The one exception is CutMix, whose partners come from the same local batch.

    Names, each at most once, applied in this order whatever theirs:
        `resized-crop`: a random part of the image, resized; done by the loader, which has the image
            at its stored size (`ReadingOptions.resized_crop`).
        `randaugment[-M]`: timm's RandAugment of magnitude M (default 9) on the CPU, image by
            image; for large images.
        `crop[-PAD]`: shift by up to PAD pixels (default 4), black outside.
        `flip`: mirror horizontally, every other time.
        `cutout[-SIZE]`: a black square of SIZE pixels (default 16), centred anywhere (DeVries and
            Taylor, 2017).
        `cutmix[-ALPHA]`: a box from another image of the batch, area from Beta(ALPHA, ALPHA)
            (default 1), labels mixed by area (Yun et al., ICCV 2019).

    Attributes:
        unplaced: A change that `placement` does not tell of, by name; empty where there is none.
    """

    def __init__(self, names: list[str], seed: int) -> None:
        """Reads the names.

        Args:
            names: What to apply.
            seed: Seed of the random choices.

        Raises:
            UserError: Unknown name, or a value out of range.
        """
        self._seed = seed
        self._values = read_augmentations(names)
        self.unplaced = next((name for name in self._values if name not in _PLACED), "")
        self._randaugment = (
            RandAugment(self._values["randaugment"]) if "randaugment" in self._values else None
        )
        self._mix_table = (
            _beta_quantiles(self._values["cutmix"]) if "cutmix" in self._values else None
        )

    def __call__(
        self, images: Tensor, labels: Tensor, indices: Tensor, epoch: int, num_classes: int
    ) -> Batch:
        """Augments a batch.

        Args:
            images: uint8 `(B, C, H, W)`.
            labels: int64 `(B,)`.
            indices: int64 `(B,)`.
            epoch: Epoch, from 0.
            num_classes: Classes of soft labels.

        Returns:
            Images of the same shape and memory format, float32 in [0, 1], with their labels.
        """
        keys = combine(self._seed, epoch, indices)
        if self._randaugment is not None:
            images = self._randaugment(images, keys)
        # (B, H, W, C) without copying, where images are channels_last.
        last = images.is_contiguous(memory_format=torch.channels_last)
        pixels = images.permute(0, 2, 3, 1).contiguous()
        if "crop" in self._values or "flip" in self._values:
            pixels = self._placement(keys).apply(pixels)
        result = pixels.to(torch.float32).div_(255).permute(0, 3, 1, 2)
        result = result if last else result.contiguous()
        if "cutout" in self._values:
            result.masked_fill_(_boxes(result, keys, int(self._values["cutout"])), 0.0)
        if self._mix_table is not None:
            result, targets = _cutmix(result, labels, keys, self._mix_table, num_classes)
            return Batch(result, labels, indices, targets)
        return Batch(result, labels, indices)

    def placement(self, indices: Tensor, epoch: int) -> Placement:
        """Returns where `crop` and `flip` put the images `indices` `(B,)` in an epoch."""
        return self._placement(combine(self._seed, epoch, indices))

    def _placement(self, keys: Tensor) -> Placement:
        return Placement.draw(keys, int(self._values.get("crop", 0)), flip="flip" in self._values)


def _boxes(images: Tensor, keys: Tensor, side: int) -> Tensor:
    """Returns a mask `(B, 1, H, W)` of a square per image, cut off at the borders."""
    height, width = images.shape[2:]
    centre = uniform(keys, 2, stream=2)
    top = (centre[:, 0] * height).floor() - side // 2
    left = (centre[:, 1] * width).floor() - side // 2
    return _box_mask(images, top, top + side, left, left + side)


def _box_mask(images: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])
    inside_columns = (columns >= left[:, None]) & (columns < right[:, None])
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def _cutmix(
    images: Tensor, labels: Tensor, keys: Tensor, table: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    choices = uniform(keys, 4, stream=3)
    # Partners: the next one in a random circle of the batch, keyed like everything else.
    circle = choices[:, 0].argsort(stable=True)
    partner = torch.empty_like(circle).scatter_(0, circle, circle.roll(1))
    side = (1 - _interpolate(table.to(images.device), choices[:, 1])).sqrt()
    half_height, half_width = side * height / 2, side * width / 2
    centre_row, centre_column = choices[:, 2] * height, choices[:, 3] * width
    top = (centre_row - half_height).round().clamp(0, height)
    bottom = (centre_row + half_height).round().clamp(0, height)
    left = (centre_column - half_width).round().clamp(0, width)
    right = (centre_column + half_width).round().clamp(0, width)
    mixed = torch.where(_box_mask(images, top, bottom, left, right), images[partner], images)
    foreign = ((bottom - top) * (right - left) / (height * width))[:, None]
    own = one_hot(labels, num_classes).to(torch.float32)
    return mixed, own * (1 - foreign) + own[partner] * foreign


def _beta_quantiles(alpha: float) -> Tensor:
    """Returns quantiles of Beta(alpha, alpha) at 1,025 even steps."""
    from scipy.special import betaincinv

    steps = np.linspace(0, 1, 1025)
    return torch.from_numpy(betaincinv(alpha, alpha, steps).astype(np.float32))


def _interpolate(table: Tensor, at: Tensor) -> Tensor:
    position = at * (len(table) - 1)
    below = position.to(torch.int64)
    return torch.lerp(table[below], table[below + 1], position - below)


# They move an image as a whole, or leave it where it is.
_PLACED = ("crop", "flip", "cutout")
