"""Settings of a run that takes about a second: a part of digits, a narrow network."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "data.limit": 200,
    "data.val_fraction": 0.1,
    "data.loader": "memory",
    "model.name": "preact_resnet10",
    "model.kwargs": {"base_width": 8},
    "threat.eps": 0.1,
    "attack.steps": 3,
    "optim.schedule": "constant",
    "train.epochs": 2,
    "train.batch_size": 48,
}
