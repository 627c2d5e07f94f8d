"""What an evaluation is of: checksums that tell one model or setting from another."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from dynat_ray.data import DatasetInfo

# Which model, data and settings; compared as a whole and named one by one where they differ.
Identity = dict[str, Any]


def checksum_model(model: nn.Module) -> str:
    """Returns the SHA-256 of a model's structure, parameters and buffers, on any device."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Flattened first: a scalar has no bytes to view, and strides must not matter.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
    return digest.hexdigest()


def identify(model: nn.Module, data: DatasetInfo, settings: dict[str, Any]) -> Identity:
    """Returns what must be equal for a finished shard to count in another run.

    Args:
        model: The evaluated model.
        data: The data set its test samples are from.
        settings: Everything else that outcomes follow from, as JSON values.
    """
    identity = {"model": checksum_model(model), "data": data.checksum, **settings}
    plain: Identity = json.loads(json.dumps(identity))
    return plain
