"""Images: from their source into a prepared folder, and from there to the device."""

from __future__ import annotations

from dynat_ray.data.augment import Augmentation, Batch
from dynat_ray.data.info import DatasetInfo, load_info
from dynat_ray.data.loaders import Loader, RawBatch, build_loader, loader_kind
from dynat_ray.data.stored import load_labels, load_split, load_test_images
from dynat_ray.data.subsets import balanced_subset, stratified_split

__all__ = [
    "Augmentation",
    "Batch",
    "DatasetInfo",
    "Loader",
    "RawBatch",
    "balanced_subset",
    "build_loader",
    "load_info",
    "load_labels",
    "load_split",
    "load_test_images",
    "loader_kind",
    "stratified_split",
]
