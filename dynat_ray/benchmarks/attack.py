"""How fast AutoAttack is against pyautoattack called directly, and whether it finds the same."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack

from dynat_ray.attacks import evaluate_attacks
from dynat_ray.models import build_model

# So small that no sample falls: every stage attacks all of them, which is what takes the time.
_EPS = 0.05 / 255


def measure(
    *, model: str = "preact_resnet18", width: int = 16, images: int = 24, threads: int = 0
) -> dict[str, Any]:
    """Times AutoAttack `standard` under Linf on random 32 x 32 images that keep their class.

    Args:
        model: Architecture, with random weights; it decides the labels.
        width: Its `base_width`.
        images: How many, in one batch.
        threads: CPU threads; 0: all cores.

    Returns:
        `seconds` of both, `ratio` (theirs by ours) and `agreement` (share of samples with the
        same outcome).
    """
    threads = threads or len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = build_model(
                model,
                num_classes=10,
                channels=3,
                size=(32, 32),
                mean=[0.5] * 3,
                std=[0.25] * 3,
                kwargs={"base_width": width},
            ).eval()
            pixels = torch.rand(images, 3, 32, 32)
            labels = network(pixels).argmax(dim=1)
            started = time.perf_counter()
            direct = AutoAttack(network, norm="Linf", eps=_EPS, seed=0)
            _, theirs = direct.run_standard_evaluation(pixels, labels, batch_size=images)
            middle = time.perf_counter()
        network.to(memory_format=torch.channels_last)
        ours = evaluate_attacks(
            network, pixels, labels, ["autoattack"], norm="Linf", eps=_EPS, batch_size=images
        )["autoattack"]
        ended = time.perf_counter()
    finally:
        torch.set_num_threads(before)
    seconds = {"pyautoattack": middle - started, "dynat_ray": ended - middle}
    return {
        "images": images,
        "threads": threads,
        "seconds": seconds,
        "ratio": seconds["pyautoattack"] / seconds["dynat_ray"],
        "agreement": float(np.mean(ours.correct == (theirs == labels).numpy())),
    }
