"""From a source of images to a prepared data-set folder."""

from __future__ import annotations

from dynat_ray.data.preparing.cache import cached_dataset
from dynat_ray.data.preparing.dataset import prepare_dataset

__all__ = ["cached_dataset", "prepare_dataset"]
