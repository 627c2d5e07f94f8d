"""What an evaluation is of: checksums that tell one model or setting from another."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynat_ray.data import DatasetInfo
from dynat_ray.evaluation.batches import BATCH_SIZE, in_batches
from dynat_ray.evaluation.exact import device_of, exact

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


def checksum_code(model: nn.Module) -> str:
    """Returns the SHA-256 of the files that define the classes of a model's parts."""
    digest = hashlib.sha256()
    for name in sorted({type(part).__module__ for part in model.modules()}):
        file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        digest.update(name.encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()


def checksum_answers(model: nn.Module, images: Tensor, *, batch_size: int = BATCH_SIZE) -> str:
    """Returns the SHA-256 of the classes predicted for images `(n, C, H, W)` in [0, 1].

    Structure and weights do not tell what a model does: it may have plain attributes.
    """
    device = device_of(model)
    with exact(model) as ready, torch.no_grad():
        logits = in_batches(ready, batch_size, images.to(device))
    return hashlib.sha256(logits.argmax(dim=1).cpu().numpy().tobytes()).hexdigest()


def checksum_samples(images: Tensor, labels: Tensor) -> str:
    """Returns the SHA-256 of images `(n, C, H, W)` and labels `(n,)`, on the CPU."""
    digest = hashlib.sha256(f"{images.dtype} {tuple(images.shape)}".encode())
    for tensor in (images, labels):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def identify(
    model: nn.Module, data: DatasetInfo, settings: dict[str, Any], *, answers: str = ""
) -> Identity:
    """Returns what must be equal for a finished shard to count in another run.

    Args:
        model: The evaluated model.
        data: The data set its test samples are from.
        settings: Everything else that outcomes follow from, as JSON values.
        answers: `checksum_answers`; empty for a model that answers at random.
    """
    identity = {
        "model": checksum_model(model),
        "code": checksum_code(model),
        "answers": answers,
        "data": data.checksum,
        **settings,
    }
    plain: Identity = json.loads(json.dumps(identity))
    return plain


def identity_key(identity: Identity) -> str:
    """Returns a name for files of this identity alone."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
