"""The accuracies in a run's final table: its models under every attack, on Ray's workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dynat_ray.acceleration.switch import cpu_kernels
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.config import RunConfig
from dynat_ray.data import balanced_subset, load_info, load_split
from dynat_ray.distributed.cluster import cluster_total
from dynat_ray.distributed.kept_shards import finish_shards
from dynat_ray.distributed.shard_workers import run_shards_on_ray
from dynat_ray.evaluation.identity import checksum_samples, identify, identity_key
from dynat_ray.evaluation.outcomes import Outcome, collect
from dynat_ray.evaluation.progress_bar import progress_bar
from dynat_ray.evaluation.shards import plan_shards
from dynat_ray.evaluation.state_file import open_state
from dynat_ray.models import load_model
from dynat_ray.storage.metrics import read_metrics

# Folder beside a run's models: the finished shards of every evaluation of them.
_STATES = "evaluated"


def measure_run(config: RunConfig, folder: Path, *, workers: int) -> dict[str, Any]:
    """Returns a trained run's final table: best and last model under every attack.

    Args:
        config: The run, resolved.
        folder: Its folder.
        workers: How many evaluate, at most.
    """
    images, labels = load_split(config.data.path, "test", image_size=config.data.image_size)
    lines = read_metrics(folder / "metrics.jsonl")
    best_epoch = max((line["epoch"] for line in lines if line["best"]), default=lines[-1]["epoch"])
    tables: dict[str, Any] = {}
    for name, model_folder in (("best", "model"), ("last", "model_last")):
        if name == "last" and best_epoch == lines[-1]["epoch"]:
            tables["last"] = tables["best"]
            break
        tables[name] = measure(
            folder / model_folder, images, labels, config, config.eval.attacks, workers=workers
        )
    seconds = sum(line["seconds"] for line in lines)
    images_seen = sum(line["seconds"] * line["images_per_second"] for line in lines)
    return {
        **tables,
        "best_epoch": best_epoch,
        "seconds": round(seconds, 1),
        "images_per_second": round(images_seen / seconds, 1),
    }


def measure(
    model_folder: Path,
    images: Tensor,
    labels: Tensor,
    config: RunConfig,
    attacks: Sequence[str],
    *,
    workers: int,
) -> dict[str, Any]:
    """Returns a model's accuracies under attack: an entry for each attack.

    Finished shards are kept beside the model's folder: when this is killed and called again, with
    the same model, images and settings, it goes on.

    Args:
        model_folder: Saved model.
        images: uint8 `(N, C, H, W)`, or float32 in [0, 1].
        labels: int64 `(N,)`.
        config: For the threat, `eval.samples` (what costly attacks see), the seed and whether GPUs
            may be used.
        attacks: Names.
        workers: How many share the work, at most: the cluster may have fewer GPUs than the CPUs
            that trained, and nodes may have gone.
    """
    gpus = 0 if config.cluster.gpu is False else int(cluster_total("GPU"))
    workers = max(1, min(workers, gpus or int(cluster_total("CPU"))))
    chosen = get_attacks(attacks)
    costly = None
    if 0 < config.eval.samples < len(labels):
        costly = balanced_subset(labels.numpy(), config.eval.samples)
    # Small enough that every worker gets some.
    batch_size = min(config.eval.batch_size, -(-len(labels) // workers))
    shards = plan_shards(
        len(labels),
        chosen,
        eps=[config.threat.eps],
        batch_size=batch_size,
        costly_positions=costly,
    )
    model, info = load_model(model_folder), load_info(config.data.path)
    settings = {
        "norm": config.threat.norm,
        "seed": config.train.seed,
        "eps": config.threat.eps,
        "attacks": list(attacks),
        "images": checksum_samples(images, labels),
        "costly_samples": config.eval.samples,
        "batch_size": batch_size,
    }
    identity = identify(model, info, settings)
    path = model_folder.parent / _STATES / f"{identity_key(identity)}.jsonl"
    with (
        cpu_kernels(config.train.cpu_kernels),
        open_state(path, identity, shards, resume=True) as state,
        progress_bar(len(labels)) as on_shard,
    ):
        finished = finish_shards(
            state,
            path,
            lambda left: run_shards_on_ray(
                model,
                images,
                labels,
                left,
                norm=config.threat.norm,
                seed=config.train.seed,
                workers=workers,
                gpu=gpus > 0,
            ),
            on_shard,
        )
    found = collect(finished, chosen, info.num_classes)[config.threat.eps]
    return {
        attack: outcome.entry() | _on_same_samples(outcome, found.values())
        for attack, outcome in found.items()
    }


def _on_same_samples(outcome: Outcome, all_outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """Returns, for an attack that saw a part of the images, what the others reach on that part."""
    others = [other for other in all_outcomes if other.samples > outcome.samples]
    if not others:
        return {}
    return {
        "same_samples": {
            other.attack: round(
                100 * float(other.correct[np.isin(other.positions, outcome.positions)].mean()), 3
            )
            for other in others
        }
    }
