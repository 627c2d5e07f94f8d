"""Settings of a run that takes about a second: a part of digits, a network of two blocks."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "data.limit": 120,
    "data.val_fraction": 0.1,
    "data.loader": "memory",
    # One block in each of two stages.
    "model.name": "wide_resnet28_10",
    "model.kwargs": {"layers": [1, 1], "channels": [8, 16], "stem_chs": 8},
    "threat.eps": 0.1,
    "attack.steps": 3,
    "optim.schedule": "constant",
    "train.epochs": 2,
    "train.batch_size": 48,
}

# Learns more in a few epochs. Its last stage has one pixel, of which batch norm needs two images.
DEEPER: dict[str, Any] = {"model.name": "preact_resnet10", "model.kwargs": {"base_width": 8}}
