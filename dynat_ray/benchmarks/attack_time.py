"""How fast AutoAttack is against pyautoattack called directly, and whether it finds the same."""

from __future__ import annotations

import copy
import statistics
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from dynat_ray import interrupt
from dynat_ray.attacks.drafts import drafts_status
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.benchmarks.turns import cpu_threads, in_turn, seconds_of, spread
from dynat_ray.data import load_test_images
from dynat_ray.errors import UserError
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.evaluation.plan import plan_shards
from dynat_ray.models import build_model, load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.storage.run_folder import read_run_config

# The smallest is so small that no sample falls and every stage attacks all of them; at the others
# some fall early, as they do in use.
_RADII = {"none fall": 0.05 / 255, "some fall": 0.5 / 255}
# So many random images, and test images of a trained run.
_RANDOM_IMAGES, _TRAINED_IMAGES = 8, 64
# Two workers against one: so many shards of so many images, all of which stand.
_SHARDS, _SHARD, _SHARD_ROUNDS = 24, 16, 2


def measure(
    *,
    model: str = "preact_resnet18",
    width: int = 16,
    images: int = 0,
    rounds: int = 3,
    device: str = "cpu",
    threads: int = 0,
    run: Path | None = None,
    on_ray: bool = True,
) -> dict[str, Any]:
    """Times AutoAttack `standard` under Linf, and two Ray workers against one.

    Args:
        model: Architecture, with random weights that decide the labels of random 32 x 32 images.
        width: Its `base_width`.
        images: How many, in one batch; 0: 8 random ones, or 64 of a run.
        rounds: How often both are timed, in turn.
        device: Where; the Ray workers take what the cluster has.
        threads: CPU threads; 0: all cores.
        run: A trained run: its model, test images and eps, under Linf, instead of random ones.
        on_ray: Also time two Ray workers against one.

    Returns:
        `images`, `device`, `threads`; for each of `cases` median `seconds` of all, `agreement`
        (share of samples with the same outcome) and the share `still_right`; and `ratios`, theirs
        by ours of each case, with drafts where the device has them and without, and, where Ray is
        installed and has room, `two workers`: the shards per second of two by those of one.
    """
    with cpu_threads(threads) as threads:
        if run is None:
            network, pixels, labels = _random(model, width, images or _RANDOM_IMAGES)
            radii = _RADII
        else:
            config = read_run_config(run)
            if config.threat.norm != "Linf":
                raise UserError(f"{run} was trained under {config.threat.norm}; give a run of Linf")
            network = load_model(run)
            pixels, labels = load_test_images(config.data.path, images or _TRAINED_IMAGES)
            radii = {run.name: config.threat.eps}
        cases: dict[str, Any] = {}
        ratios: dict[str, dict[str, float]] = {}
        for name, eps in radii.items():
            cases[name], each = _time(network.to(device), pixels, labels, eps, rounds, device)
            ratios |= {f"autoattack{how}, {name}": spread(found) for how, found in each.items()}
            if interrupt.received():
                break
    if on_ray and find_spec("ray") and not interrupt.received() and _room_for_two():
        ratios["two workers"] = spread([_two_workers(model, width) for _ in range(_SHARD_ROUNDS)])
    return {
        "images": len(labels),
        "device": device,
        "threads": threads,
        "cases": cases,
        "ratios": ratios,
    }


def _room_for_two() -> bool:
    from dynat_ray.distributed.capacity import cluster_total

    return (cluster_total("GPU") or cluster_total("CPU")) >= 2


def _two_workers(model: str, width: int) -> float:
    """Returns how much faster two Ray workers do shards than one, once they have started."""
    from dynat_ray.distributed.shard_workers import ShardWorkers

    network, pixels, labels = _random(model, width, _SHARDS * _SHARD)
    shards = plan_shards(
        len(labels),
        get_attacks(["apgd-ce"]),
        [Threat("Linf", _RADII["none fall"])],
        batch_size=_SHARD,
    )
    rates = {}
    for workers in (1, 2):
        with ShardWorkers(workers) as started:
            ends = [
                time.perf_counter() for _ in started.run(network, pixels, labels, shards, seed=0)
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


def _time(
    network: nn.Module, pixels: Tensor, labels: Tensor, eps: float, rounds: int, device: str
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Returns what a case is said to be, and by how they look the ratios of its rounds."""
    images = len(pixels)
    kept: dict[str, Tensor] = {}
    ours_network = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def theirs() -> None:
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            direct = AutoAttack(network, norm="Linf", eps=eps, seed=0, device=device)
            _, found = direct.run_standard_evaluation(pixels, labels, batch_size=images)
        kept["theirs"] = found.cpu() == labels

    def ours(drafts: bool) -> None:
        outcome = evaluate_attacks(
            ours_network,
            pixels,
            labels,
            ["autoattack"],
            Threat("Linf", eps),
            batch_size=images,
            drafts=drafts,
        )
        kept["drafts" if drafts else "float32"] = torch.from_numpy(outcome["autoattack"].correct)

    # What a device does on its first pass is not timed.
    for each in (network, ours_network):
        start = pixels.to(device, copy=True).requires_grad_()
        each(start).sum().backward()
        each.zero_grad(set_to_none=True)
    loops = {
        "pyautoattack": partial(seconds_of, theirs, device),
        "dynat_ray, float32": partial(seconds_of, partial(ours, drafts=False), device),
    }
    ways = {"dynat_ray, float32": " in float32"}
    if drafts_status(ours_network, "Linf", torch.device(device)) == "on":
        loops["dynat_ray"] = partial(seconds_of, partial(ours, drafts=True), device)
        ways["dynat_ray"] = ""
    seconds = in_turn("attack", loops, rounds, first_in_turn=True)
    theirs_found = kept.pop("theirs")
    case = {
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "agreement": {
            how: float((found == theirs_found).float().mean()) for how, found in kept.items()
        },
        "still_right": float(theirs_found.float().mean()),
    }
    ratios = {
        words: [a / b for a, b in zip(seconds["pyautoattack"], seconds[name], strict=True)]
        for name, words in ways.items()
    }
    return case, ratios
