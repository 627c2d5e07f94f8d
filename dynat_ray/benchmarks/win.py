"""Whether DynAT is ahead at equal compute and full size: against TRADES and PGD-AT, on one GPU.

Each method is trained in this process, without Ray, for what PGD-AT spends in some epochs, then
attacked. All of it is kept in a folder, so that the same call goes on where one was cut off.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dynat_ray.atomic_files import atomic_write_text
from dynat_ray.config import RunConfig
from dynat_ray.data import DatasetInfo, balanced_subset, load_info, load_labels, load_split
from dynat_ray.distributed import final_table
from dynat_ray.distributed.evaluator import Workers
from dynat_ray.distributed.progress import ProgressPrinter
from dynat_ray.errors import UserError
from dynat_ray.evaluation.results import OUTCOMES, write_run_samples
from dynat_ray.hardware import device_name
from dynat_ray.report.difference_rows import (
    DifferenceRow,
    difference_sentences,
    differences_table,
)
from dynat_ray.report.method_differences import MODEL, method_differences
from dynat_ray.report.text import accuracy_text, align_columns, attack_names
from dynat_ray.settings import Settings, build_config, read_recipe
from dynat_ray.storage.checkpoint_names import CHECKPOINTS
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import config_settings, open_run_folder, read_run_config
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.equal_compute import pgd_at_compute
from dynat_ray.training.final_models import is_trained
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import check_run
from dynat_ray.training.trainer import train

METHODS = ("dynat", "trades", "pgd_at")
# Of PGD-AT: so many take nine minutes on an H200, with the others' and the attacks.
EPOCHS = 15
# Batches of 50,000 images have one size, which keeps a GPU busy; those of few images are smaller.
_BATCH, _FEWEST_STEPS = 500, 10
# Three runs and their attacks are to end in nine minutes on one H200.
_SETTINGS: Settings = {
    "data.loader": "memory",
    "data.val_fraction": 0.0,  # the last model counts, which nothing has chosen
    "optim.lr": 0.3,
    "optim.schedule": "one-cycle",
    "train.ema_decay": 0.995,
    "train.checkpoint_epochs": 3,
    "eval.attacks": ["clean", "cw-20", "autoattack-sampled"],
    "eval.samples": 1000,
    "eval.second_stage": 100,
    "eval.batch_size": 500,
    "cluster.workers": 1,
}
_RESULTS = "results.json"


def measure(
    data: Path,
    folder: Path,
    *,
    device: str = "cpu",
    epochs: int = EPOCHS,
    images: int = 0,
    width: int = 64,
    compiled: bool = False,
) -> dict[str, Any]:
    """Trains and attacks all methods, and prints the table after each of them.

    Args:
        data: Prepared data set.
        folder: Of the runs; methods that it holds are not done again, one that was cut off goes on.
        device: Where.
        epochs: Of PGD-AT; every method gets its compute.
        images: At most so many training images, and test images; 0: all.
        width: Channels of the network's first stage.
        compiled: `torch.compile` the training.

    Returns:
        `results` by method, as runs have them, with `epochs` and `forward_units`; `differences`,
        a row for each pair and measure; `compute`, `device`, and the `seconds` that this call took.

    Raises:
        UserError: The data can't be read, or the folder holds runs with other settings.
    """
    began = time.monotonic()
    settings: Settings = {
        "data.path": str(data.resolve()),
        "data.limit": images,
        "train.batch_size": max(2, min(_BATCH, images // _FEWEST_STEPS)) if images else _BATCH,
        "model.kwargs": {"base_width": width},
        "train.compile": compiled,
    }
    layers = [read_recipe("cifar10-preactresnet18"), _SETTINGS, settings]
    compute = pgd_at_compute(build_config([*layers, {"train.epochs": epochs}]))
    layers.append({"train.compute": compute})
    configs = {name: build_config([*layers, {"method.name": name}]) for name in METHODS}
    _check(configs, load_info(data), folder)
    results: dict[str, Any] = {}
    for name, config in configs.items():
        print(f"{name}: {RunLength.of(config.train)} a training image ...", flush=True)
        results[name] = _results(config, folder / name, torch.device(device))
        differences, _ = method_differences(
            lambda label, _: folder / label,
            {each: [config.train.seed] for each in results},
            config.eval.attacks,
            METHODS[0],
        )
        print(table(results, differences), flush=True)
    return {
        "data": data.name,
        "device": device_name(torch.device(device)),
        "compute": compute,
        "seconds": round(time.monotonic() - began, 1),
        "results": results,
        "differences": [row.cells() for row in differences],
    }


def _check(configs: Mapping[str, RunConfig], info: DatasetInfo, folder: Path) -> None:
    """Raises `UserError` if a method can't be trained, or was with other settings."""
    for name, config in configs.items():
        check_run(config, info)
        require_same_settings(folder / name, config)


def table(results: Mapping[str, Any], differences: list[DifferenceRow]) -> str:
    """Returns a row for each method, and below them the paired differences."""
    attacks = attack_names(next(iter(results.values())))
    heads = ["", *attacks, "epochs", "units", "seconds"]
    rows = [
        [
            name,
            *(accuracy_text(found[MODEL][attack]) for attack in attacks),
            *(f"{found[key]:.1f}" for key in ("epochs", "forward_units", "seconds")),
        ]
        for name, found in results.items()
    ]
    blocks = [align_columns([heads, *rows])]
    if differences:
        blocks += [differences_table(differences), *difference_sentences(differences)]
    return "\n".join(blocks)


def _results(config: RunConfig, folder: Path, device: torch.device) -> dict[str, Any]:
    """Returns a method's results, from its folder where it has ended."""
    if results := read_json(folder / _RESULTS):
        return results
    open_run_folder(folder, config, resume=True)
    if not is_trained(folder, RunLength.of(config.train)):
        with ProgressPrinter(folder, config):
            train(config, LocalSession(folder, device))
    labels = load_labels(config.data.path, "test").numpy()
    positions = balanced_subset(labels, config.data.limit)
    images, true = load_split(config.data.path, "test", positions=positions)
    with Workers(1, on_ray=False).ready() as run_shards:
        found = final_table.measure(
            folder / f"model_{MODEL}",
            images,
            true,
            config,
            config.eval.attacks,
            run_shards,
            device,
        )
    write_run_samples(folder / OUTCOMES, {MODEL: found}, positions, true.numpy())
    lines = read_metrics(folder / "metrics.jsonl")
    results = {
        MODEL: final_table.table_of(found),
        "epochs": lines[-1]["epochs_done"],
        "forward_units": lines[-1]["forward_units"],
        "seconds": round(sum(line["seconds"] for line in lines), 1),
    }
    atomic_write_text(folder / _RESULTS, json.dumps(results, indent=2) + "\n")
    # The largest part of the folder; what has ended does not go on.
    shutil.rmtree(folder / CHECKPOINTS)
    return results


def require_same_settings(folder: Path, config: RunConfig) -> None:
    """Raises `UserError` if the folder holds a run that was begun with other settings."""
    if not (folder / "config.yaml").is_file():
        return
    there, wanted = (config_settings(each) for each in (read_run_config(folder), config))
    changed = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    if changed:
        raise UserError(
            f"{folder} was begun with another {changed[0]}: give another --json FILE, or remove it"
        )
