"""A whole run, from settings to results: folder, training, evaluation, report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dynat_ray.attacks.outcomes import FinishedShard, Outcome, collect
from dynat_ray.attacks.progress import progress_bar
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.attacks.shards import plan_shards
from dynat_ray.config import RunConfig
from dynat_ray.config_files import override
from dynat_ray.data import DatasetInfo, balanced_subset, load_info, load_split
from dynat_ray.distributed.evaluation import run_shards_on_ray
from dynat_ray.distributed.session import (
    cluster_total,
    connect,
    require_everywhere,
    require_shared_storage,
)
from dynat_ray.distributed.training import fit, resolve_workers
from dynat_ray.errors import UserError
from dynat_ray.methods import method_settings, standard_model_key
from dynat_ray.models import load_model
from dynat_ray.report import write_report
from dynat_ray.training.cached_data import cached_dataset
from dynat_ray.training.header import describe_run
from dynat_ray.training.materials import check_run
from dynat_ray.training.mirror import Mirror
from dynat_ray.training.models import trained_epochs
from dynat_ray.training.run_folder import open_run_folder, write_environment
from dynat_ray.training.telemetry import read_metrics


def run(
    config: RunConfig, folder: Path, *, resume: bool = False, out_given: bool = True
) -> dict[str, Any]:
    """Trains, evaluates and reports; with `resume` goes on where it was.

    Args:
        config: The run; an empty `data.path` is prepared first.
        folder: The run's folder.
        resume: Go on, or start if there is nothing yet.
        out_given: The user said where run folders go (on several nodes someone must).

    Returns:
        What `results.json` holds.

    Raises:
        UserError: What the user can correct.
    """
    config, info, loader = resolve(config)
    connect()
    require_shared_storage(out_given)
    low, high, gpu = resolve_workers(config.cluster)
    changed = open_run_folder(folder, config, resume=resume)
    mirror = Mirror.of(folder)
    require_everywhere([Path(config.data.path), *([] if mirror else [folder / "config.yaml"])])
    workers = str(low) if low == high else f"{low} to {high}"
    facts = {"workers": workers, "device": "cuda" if gpu else "cpu", "loader": loader}
    write_environment(folder, facts)
    print(describe_run(config, info, mirror.address if mirror else folder, facts), flush=True)
    for change in changed:
        print(f"changed since the run began: {change}", flush=True)
    if not is_trained(config, folder):
        fit(config, folder)
    results = finish(config, folder, workers=high)
    if mirror is not None:
        mirror.push()
    return results


def resolve(config: RunConfig) -> tuple[RunConfig, DatasetInfo, str]:
    """Prepares an empty `data.path`, and checks everything that can be checked without workers.

    Returns:
        The config with absolute paths, its data set, and the loader that will be used.

    Raises:
        UserError: What the user can correct.
    """
    path = Path(config.data.path).expanduser() if config.data.path else cached_dataset(config.data)
    config = with_absolute_paths(config, path)
    info = load_info(path)
    get_attacks(config.eval.attacks)
    return config, info, check_run(config, info)


def with_absolute_paths(config: RunConfig, data: Path | str) -> RunConfig:
    """Returns the config as its run writes it down: elsewhere, relative paths mean other places.

    Args:
        config: The run.
        data: Folder of its data set.
    """
    absolute = {"data.path": str(Path(data).resolve())}
    keys = {"data.extra_path", "model.init_from", standard_model_key(config.method.name)}
    for key in keys - {""}:
        section, _, name = key.partition(".")
        if given := getattr(getattr(config, section), name):
            absolute[key] = str(Path(given).expanduser().resolve())
    return override(config, absolute, method_settings())


def finish(config: RunConfig, folder: Path, *, workers: int) -> dict[str, Any]:
    """Evaluates a trained run on the test split, writes its results and report.

    Args:
        config: The run, resolved.
        folder: Its folder.
        workers: How many evaluate, at most.

    Returns:
        What `results.json` holds.
    """
    results = _evaluate(config, folder, workers=workers)
    _write_whole(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_report(folder)
    return results


def is_trained(config: RunConfig, folder: Path) -> bool:
    """Returns whether a run has done its last epoch and saved its models."""
    return trained_epochs(folder) >= config.train.epochs


def _evaluate(config: RunConfig, folder: Path, *, workers: int) -> dict[str, Any]:
    """Returns the final table: best and last model under every attack on the test split."""
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
    finished: list[FinishedShard] = []
    with progress_bar(len(labels)) as on_shard:
        for shard, outcomes in run_shards_on_ray(
            load_model(model_folder),
            images,
            labels,
            shards,
            norm=config.threat.norm,
            seed=config.train.seed,
            workers=workers,
            gpu=gpus > 0,
        ):
            finished.append((shard, outcomes))
            on_shard(shard, outcomes)
    classes = load_info(config.data.path).num_classes
    found = collect(finished, chosen, classes)[config.threat.eps]
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


def _write_whole(file: Path, text: str) -> None:
    try:
        file.with_suffix(".tmp").write_text(text)
        os.replace(file.with_suffix(".tmp"), file)
    except OSError as error:
        raise UserError(f"{file} can't be written: {error}") from None
