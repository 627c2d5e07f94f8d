"""How much faster more workers are, through Ray Train."""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

from dynat_ray.config_files import build_config
from dynat_ray.data import prepare_dataset
from dynat_ray.distributed.session import cluster_total, connect
from dynat_ray.distributed.training import fit
from dynat_ray.methods import method_settings
from dynat_ray.training.run_folder import open_run_folder
from dynat_ray.training.telemetry import read_metrics

_EPOCHS = 3
_BATCH = 128


def measure(*, rounds: int = 3, workers: int = 0) -> dict[str, Any]:
    """Trains PGD-AT on digits with 1, 2, 4, ... workers, one CPU core or GPU each.

    Strong scaling keeps the global batch, weak scaling the batch of a worker.

    Args:
        rounds: How often each size is measured, all sizes in turn.
        workers: Most workers; 0: what the cluster has.

    Returns:
        `images_per_second` by kind and number of workers (all rounds; the first epoch, which
        warms up, left out) and `ratios`: the largest number of workers against one.
    """
    connect()
    gpus = int(cluster_total("GPU"))
    most = workers or gpus or int(cluster_total("CPU"))
    sizes = [2**power for power in range(most.bit_length()) if 2**power <= most]
    speeds: dict[str, dict[int, list[float]]] = {
        kind: {size: [] for size in sizes} for kind in ("strong", "weak")
    }
    with tempfile.TemporaryDirectory() as folder:
        prepare_dataset("digits", Path(folder) / "data", progress=False)
        for number in range(rounds):
            for kind, by_size in speeds.items():
                for size, found in by_size.items():
                    run_folder = Path(folder) / f"{kind}-{size}-{number}"
                    batch = _BATCH * (size if kind == "weak" else 1)
                    found.append(_speed(Path(folder) / "data", run_folder, size, batch, gpus > 0))
    ratios = {}
    for kind, by_size in speeds.items():
        each = [many / one for one, many in zip(by_size[1], by_size[sizes[-1]], strict=True)]
        ratios[f"scaling_{kind}_{sizes[-1]}"] = {
            "median": round(statistics.median(each), 2),
            "min": round(min(each), 2),
            "max": round(max(each), 2),
        }
    return {"images_per_second": speeds, "ratios": ratios}


def _speed(data: Path, folder: Path, workers: int, batch_size: int, gpu: bool) -> float:
    settings = {
        "method.name": "pgd_at",
        "data.path": str(data),
        "data.val_fraction": 0.0,
        "model.name": "preact_resnet18",
        "model.kwargs": {"base_width": 16},
        "threat.eps": 0.1,
        "train.epochs": _EPOCHS,
        "train.batch_size": batch_size,
        "cluster.workers": workers,
        "cluster.gpu": gpu,
    }
    config = build_config([settings], method_settings())
    open_run_folder(folder, config, resume=False)
    with contextlib.redirect_stdout(io.StringIO()):
        fit(config, folder)
    lines = read_metrics(folder / "metrics.jsonl")[1:]
    return statistics.median(line["images_per_second"] for line in lines)
