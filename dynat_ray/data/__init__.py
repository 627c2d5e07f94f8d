"""Images: from a prepared folder to the device. What prepares the folder is in `preparing`."""

from __future__ import annotations

from dynat_ray.data.augment import Augmentation, Batch
from dynat_ray.data.extra_images import ExtraImages
from dynat_ray.data.info import DatasetInfo
from dynat_ray.data.lazy_split import LazySplit
from dynat_ray.data.loaders import Loader, RawBatch, build_loader, loader_kind
from dynat_ray.data.order import BatchPlan
from dynat_ray.data.readers import (
    ReadingOptions,
    bytes_to_fetch,
    fetch_split,
    fetch_to_stream,
    kind_here,
)
from dynat_ray.data.store_copy import load_info
from dynat_ray.data.stored import load_labels, load_split, load_test_images
from dynat_ray.data.subsets import balanced_subset, stratified_split, unevenness

__all__ = [
    "Augmentation",
    "Batch",
    "BatchPlan",
    "DatasetInfo",
    "ExtraImages",
    "LazySplit",
    "Loader",
    "RawBatch",
    "ReadingOptions",
    "balanced_subset",
    "build_loader",
    "bytes_to_fetch",
    "fetch_split",
    "fetch_to_stream",
    "kind_here",
    "load_info",
    "load_labels",
    "load_split",
    "load_test_images",
    "loader_kind",
    "stratified_split",
    "unevenness",
]
