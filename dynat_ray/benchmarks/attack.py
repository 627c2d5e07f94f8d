"""How fast AutoAttack is against pyautoattack called directly, and whether it finds the same."""

from __future__ import annotations

import copy
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from dynat_ray.attacks import evaluate_attacks
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.attacks.shards import plan_shards
from dynat_ray.benchmarks.timing import cpu_threads, spread
from dynat_ray.data import load_test_images
from dynat_ray.errors import UserError
from dynat_ray.models import build_model, load_model
from dynat_ray.training.run_folder import read_run_config

# The smallest is so small that no sample falls and every stage attacks all of them; at the others
# some fall early, as they do in use.
_RADII = {"none fall": 0.05 / 255, "some fall": 0.5 / 255}
# So many of a trained run's test images.
_TRAINED_IMAGES = 64
# Two workers against one: so many shards of so many images, all of which stand.
_SHARDS, _SHARD, _ROUNDS = 24, 16, 2


def measure(
    *,
    model: str = "preact_resnet18",
    width: int = 16,
    images: int = 8,
    threads: int = 0,
    run: Path | None = None,
) -> dict[str, Any]:
    """Times AutoAttack `standard` under Linf, and two Ray workers against one.

    Args:
        model: Architecture, with random weights that decide the labels of random 32 x 32 images.
        width: Its `base_width`.
        images: How many, in one batch.
        threads: CPU threads; 0: all cores.
        run: A trained run: its model, test images and eps, under Linf, instead of random ones.

    Returns:
        For each case `seconds` of both, `ratio` (theirs by ours), `agreement` (share of samples
        with the same outcome) and the share `still_right`; and `ratios`, these and, where Ray is
        installed and has room, `two workers`: the shards per second of two by those of one.
    """
    with cpu_threads(threads) as threads:
        if run is None:
            network, pixels, labels = _random(model, width, images)
            cases = {name: _time(network, pixels, labels, eps) for name, eps in _RADII.items()}
        else:
            config = read_run_config(run)
            if config.threat.norm != "Linf":
                raise UserError(f"{run} was trained under {config.threat.norm}; give a run of Linf")
            pixels, labels = load_test_images(config.data.path, _TRAINED_IMAGES)
            cases = {run.name: _time(load_model(run), pixels, labels, config.threat.eps)}
    ratios = {f"autoattack, {name}": spread([case["ratio"]]) for name, case in cases.items()}
    if find_spec("ray") and _room_for_two():
        ratios["two workers"] = spread([_two_workers(model, width) for _ in range(_ROUNDS)])
    return {"images": len(labels), "threads": threads, "cases": cases, "ratios": ratios}


def _room_for_two() -> bool:
    from dynat_ray.distributed.session import cluster_total, connect

    connect()
    return (cluster_total("GPU") or cluster_total("CPU")) >= 2


def _two_workers(model: str, width: int) -> float:
    """Returns how much faster two Ray workers do shards than one, once they have started."""
    from dynat_ray.distributed.evaluation import run_shards_on_ray

    network, pixels, labels = _random(model, width, _SHARDS * _SHARD)
    shards = plan_shards(
        len(labels), get_attacks(["apgd-ce"]), eps=[_RADII["none fall"]], batch_size=_SHARD
    )
    rates = {}
    for workers in (1, 2):
        ends = [
            time.perf_counter()
            for _ in run_shards_on_ray(
                network, pixels, labels, shards, norm="Linf", seed=0, workers=workers
            )
        ]
        # The first shard of each has the worker's start in it.
        rates[workers] = (len(ends) - workers) / (ends[-1] - ends[workers - 1])
    return rates[2] / rates[1]


def _random(model: str, width: int, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Returns a network with random weights, and random images with the classes it gives them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
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
        return network, pixels, network(pixels).argmax(dim=1)


def _time(network: nn.Module, pixels: Tensor, labels: Tensor, eps: float) -> dict[str, Any]:
    images = len(pixels)
    with torch.random.fork_rng(devices=[]):
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
