"""How fast AutoAttack is against pyautoattack called directly, and whether it finds the same."""

from __future__ import annotations

import copy
import os
import time
from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from dynat_ray.attacks import evaluate_attacks
from dynat_ray.models import build_model

# The smallest is so small that no sample falls and every stage attacks all of them; at the others
# some fall early, as they do in use.
_RADII = {"none fall": 0.05 / 255, "some fall": 0.5 / 255}


def measure(
    *, model: str = "preact_resnet18", width: int = 16, images: int = 8, threads: int = 0
) -> dict[str, Any]:
    """Times AutoAttack `standard` under Linf on random 32 x 32 images that keep their class.

    Args:
        model: Architecture, with random weights; it decides the labels.
        width: Its `base_width`.
        images: How many, in one batch.
        threads: CPU threads; 0: all cores.

    Returns:
        For each case `seconds` of both, `ratio` (theirs by ours), `agreement` (share of samples
        with the same outcome) and the share `still_right`.
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
        cases = {name: _time(network, pixels, labels, eps) for name, eps in _RADII.items()}
    finally:
        torch.set_num_threads(before)
    return {"images": images, "threads": threads, "cases": cases}


def _time(network: nn.Module, pixels: Tensor, labels: Tensor, eps: float) -> dict[str, Any]:
    images = len(pixels)
    with torch.random.fork_rng():
        started = time.perf_counter()
        direct = AutoAttack(network, norm="Linf", eps=eps, seed=0)
        _, theirs = direct.run_standard_evaluation(pixels, labels, batch_size=images)
        middle = time.perf_counter()
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    ours = evaluate_attacks(
        network, pixels, labels, ["autoattack"], norm="Linf", eps=eps, batch_size=images
    )["autoattack"]
    seconds = {"pyautoattack": middle - started, "dynat_ray": time.perf_counter() - middle}
    return {
        "seconds": seconds,
        "ratio": seconds["pyautoattack"] / seconds["dynat_ray"],
        "agreement": float(np.mean(ours.correct == (theirs == labels).numpy())),
        "still_right": float(ours.correct.mean()),
    }
