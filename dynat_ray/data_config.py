"""The settings of `data`: which images, and how they reach the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dynat_ray.augmentation_names import read_augmentations
from dynat_ray.errors import UserError
from dynat_ray.section import Section
from dynat_ray.value_types import (
    AboveZeroToOne,
    NonNegativeInt,
    PositiveInt,
    ZeroToHalf,
    ZeroUpToOne,
)


@dataclass(kw_only=True)
class DataConfig(Section, section="data"):
    """Which images, and how they reach the model.

    Attributes:
        path: Folder made by `dynat_ray.prepare`, or its address (`s3://`, `gs://`), from where
            every machine fetches it once; empty: `source`, prepared on first use.
        source: What to prepare when `path` is empty (`digits`, `folder:PATH`, `hf:NAME`, ...).
        loader: `ffcv`, `memory`, or `auto`: FFCV where it imports.
        val_fraction: Part of the training set, in [0, 0.5], that chooses the best checkpoint.
        limit: Use only a class-balanced part of this many training images; 0: all.
        augment: Any of `crop[-PAD]`, `flip`, `cutout[-SIZE]`, `cutmix[-ALPHA]`,
            `resized-crop`, `randaugment`, applied on the device.
        balance: Draw every class equally often. A sample drawn several times in an epoch is
            augmented the same way each time.
        extra_path: Prepared folder of extra (generated) training images, or its address; empty:
            none.
        extra_fraction: Part of every batch, in [0, 1), that comes from `extra_path`.
        image_size: Side in pixels that large images are brought to; 0: as stored.
        first_image_size: Side in pixels that training begins with; images grow to their own size,
            in four steps. 0: their own from the beginning.
        size_growth: Part of the run, in (0, 1], after which they have it.
        loader_threads: CPU threads that decode, per worker.
        node_share: What a machine fetches of training images in a store: `all`; `part`: those alone
            that it reads, the same in every epoch, whose order is drawn within parts; `stream`:
            single images, while it trains.
    """

    path: str = ""
    source: str = "digits"
    loader: Literal["auto", "ffcv", "memory"] = "auto"
    val_fraction: ZeroToHalf = 0.02
    limit: NonNegativeInt = 0
    augment: list[str] = field(default_factory=list)
    balance: bool = False
    extra_path: str = ""
    extra_fraction: ZeroUpToOne = 0.0
    image_size: NonNegativeInt = 0
    first_image_size: NonNegativeInt = 0
    size_growth: AboveZeroToOne = 0.5
    loader_threads: PositiveInt = 1
    node_share: Literal["all", "part", "stream"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        read_augmentations(self.augment)
        if self.extra_fraction > 0 and not self.extra_path:
            raise UserError("data.extra_fraction is set, but data.extra_path names no folder")
        if self.node_share == "part" and (self.balance or self.extra_fraction > 0):
            other = "balance" if self.balance else "extra_fraction"
            raise UserError(
                f"data.node_share is part, but data.{other} draws from all images; change one"
            )
        if self.node_share == "stream" and "://" not in self.path:
            raise UserError(
                f"data.node_share is stream, but data.path is "
                f"{self.path or 'empty'}, no address of a store, from where images could be "
                "fetched; set data.node_share to all, or prepare the images with --out s3://..."
            )
        if self.node_share == "stream" and self.loader == "memory":
            raise UserError(
                "data.node_share is stream, but data.loader is memory, which holds all images; set "
                "data.loader to auto, or data.node_share to all"
            )
