"""Weights that others have published: read without running code, and put into our networks."""

from __future__ import annotations

from dynat_ray.models.importing.adopting import adopt, describe_network
from dynat_ray.models.importing.checkpoint_file import is_checkpoint_file, read_checkpoint
from dynat_ray.models.importing.unwrapping import Checkpoint

__all__ = ["Checkpoint", "adopt", "describe_network", "is_checkpoint_file", "read_checkpoint"]
