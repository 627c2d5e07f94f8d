"""An epoch of `imagenet-resnet50`, cut to a tiny network: memory of each worker over its length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynat_ray.benchmarks.memory_watch import MemoryWatch
from dynat_ray.data import load_info
from dynat_ray.distributed.training_run import run
from dynat_ray.processes import descendants
from dynat_ray.settings import Settings, build_config, read_recipe
from dynat_ray.storage.metrics import read_metrics

_RECIPE = "imagenet-resnet50"
_SIDE = 32
_WORKERS = 2
_WORKER_NAME = b"RayTrainWorker"
# Images are decoded whole, augmented and attacked as in the recipe; the network costs next to
# nothing, so that an epoch takes minutes.
_TINY: Settings = {
    "data.image_size": _SIDE,
    "data.loader_threads": 1,
    "model.name": "preact_resnet10",
    "model.kwargs": {"base_width": 8},
    "model.pretrained": False,
    "attack.steps": 1,
    "attack.step_size": 0.0,
    # It gets hardly any image right, and is to attack all the same.
    "method.misclassified": "uniform",
    "optim.warmup_epochs": 0,
    "train.epochs": 1,
    "train.precision": "float32",
    "eval.attacks": ["clean", "pgd-1"],
    "eval.steps": 1,
    "eval.samples": 1000,
    "eval.every_epochs": 1,
    "cluster.workers": _WORKERS,
    "cluster.cpus_per_worker": 1,
    "cluster.gpu": False,
}


def measure(data: Path, folder: Path) -> dict[str, Any]:
    """Trains an epoch on two CPU workers through Ray Train, evaluates it and writes its report.

    Args:
        data: Prepared data set.
        folder: Of the run.

    Returns:
        `images` of the epoch, its `seconds` and `images_per_second`; `workers`, for each its memory
        over the epoch in bytes, as `MemoryWatch.between` has it.
    """
    info = load_info(data)
    # Batches as in the recipe, as far as a small set has several of them.
    batch = min(512, max(2 * _WORKERS, info.counts["train"] // 8))
    settings = _TINY | {"data.path": str(data.resolve()), "train.batch_size": batch}
    config = build_config([read_recipe(_RECIPE), settings])
    with MemoryWatch(_training_workers) as watch:
        run(config, folder)
    metrics = folder / "metrics.jsonl"
    (line,) = read_metrics(metrics)
    # The line is written once the epoch is validated, which takes a hundredth as long.
    ended = metrics.stat().st_mtime
    return {
        "images": round(line["images_per_second"] * line["seconds"]),
        "seconds": line["seconds"],
        "images_per_second": line["images_per_second"],
        "workers": list(watch.between(ended - line["seconds"], ended).values()),
    }


def _training_workers() -> list[int]:
    found = []
    for process in descendants():
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if _WORKER_NAME in command:
            found.append(process)
    return found
