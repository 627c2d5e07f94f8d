"""How much faster more workers are, through Ray Train."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dynat_ray.atomic_files import atomic_write, atomic_write_text
from dynat_ray.benchmarks.turns import Progress, spread
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.distributed.capacity import cluster_total
from dynat_ray.distributed.cluster import connect
from dynat_ray.distributed.ray_trainer import fit
from dynat_ray.settings import build_config
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import open_run_folder

# The first epoch warms up and is left out.
_EPOCHS = 3
_BATCH = 128
_IMAGES = 1024
# As large as CIFAR-10's: on 8 x 8 pixels weights are most of the memory traffic and two processes
# slow each other down even if they have nothing to do with one another.
_SIDE = 32
_KINDS = {"strong": "same global batch", "weak": "same batch per worker"}

# Images per second by kind and number of workers, a value for each round.
Speeds = dict[str, dict[int, list[float]]]


def measure(*, rounds: int = 3, workers: int = 0) -> dict[str, Any]:
    """Trains PGD-AT on digits of 32 x 32 pixels with 1, 2, 4, ... workers, one core or GPU each.

    Strong scaling keeps the global batch, weak scaling the batch of a worker; each as far as there
    are samples in a batch and images in an epoch for so many workers.

    Args:
        rounds: How often each size is measured, all sizes in turn.
        workers: Most workers; 0: what the cluster has.

    Returns:
        `images_per_second` by kind and number of workers, all rounds, and `ratios`: of each kind
        its largest number of workers against one.
    """
    connect()
    gpus = int(cluster_total("GPU"))
    most = workers or gpus or int(cluster_total("CPU"))
    sizes = [2**power for power in range(most.bit_length()) if 2**power <= most]
    largest = {"strong": _BATCH, "weak": _IMAGES // _BATCH}
    speeds: Speeds = {
        kind: {size: [] for size in sizes if size <= largest[kind]} for kind in _KINDS
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        prepare_dataset("digits", data, size=_SIDE, progress=False)
        # With one worker both kinds are the same run.
        runs = {
            (size, _BATCH * (size if kind == "weak" else 1)): None
            for kind, by_size in speeds.items()
            for size in by_size
        }
        progress = Progress("scaling", rounds * len(runs))
        for number in range(rounds):
            measured: dict[tuple[int, int], float] = {}
            for size, batch in runs:
                run_folder = Path(folder) / f"{size}-{batch}-{number}"
                measured[size, batch] = _speed(data, run_folder, size, batch, gpus > 0)
                progress.done(
                    f"round {number + 1} of {rounds}  {size} workers, batch {batch}: "
                    f"{measured[size, batch]:,.0f} images/s"
                )
            for kind, by_size in speeds.items():
                for size, found in by_size.items():
                    found.append(measured[size, _BATCH * (size if kind == "weak" else 1)])
    ratios = {}
    for kind, by_size in speeds.items():
        most = max(by_size)
        each = [many / one for one, many in zip(by_size[1], by_size[most], strict=True)]
        ratios[f"scaling_{kind}_{most}"] = spread(each)
    return {"images_per_second": speeds, "ratios": ratios}


def _speed(data: Path, folder: Path, workers: int, batch_size: int, gpu: bool) -> float:
    settings = {
        "method.name": "pgd_at",
        "data.path": str(data),
        "data.val_fraction": 0.0,
        "data.limit": _IMAGES,
        "model.name": "preact_resnet18",
        "model.kwargs": {"base_width": 16},
        "threat.eps": 0.1,
        "train.epochs": _EPOCHS,
        "train.batch_size": batch_size,
        "cluster.workers": workers,
        "cluster.gpu": gpu,
    }
    config = build_config([settings])
    open_run_folder(folder, config, resume=False)
    fit(config, folder, quiet=True)
    lines = read_metrics(folder / "metrics.jsonl")[1:]
    return statistics.median(line["images_per_second"] for line in lines)


def table(speeds: Mapping[str, Mapping[int, list[float]]]) -> str:
    """Returns medians over the rounds as Markdown.

    Args:
        speeds: From `measure`.
    """
    lines = [
        "| workers | scaling | images/s | times one worker | efficiency |",
        "|---|---|---|---|---|",
    ]
    for kind, by_size in speeds.items():
        one = statistics.median(by_size[1])
        for size, found in by_size.items():
            speed = statistics.median(found)
            lines.append(
                f"| {size} | {kind}: {_KINDS[kind]} | {speed:,.0f} | {speed / one:.2f} | "
                f"{100 * speed / one / size:.0f} % |"
            )
    return "\n".join(lines) + "\n"


def write(speeds: Mapping[str, Mapping[int, list[float]]], folder: Path) -> None:
    """Writes `scaling.md` and `scaling.png`.

    Args:
        speeds: From `measure`.
        folder: Where to.
    """
    atomic_write_text(folder / "scaling.md", table(speeds))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    sizes = sorted({size for by_size in speeds.values() for size in by_size})
    for kind, by_size in speeds.items():
        one = statistics.median(by_size[1])
        medians = [statistics.median(found) / one for found in by_size.values()]
        axes.plot(list(by_size), medians, marker="o", label=f"{kind} ({_KINDS[kind]})")
    axes.plot(sizes, sizes, linestyle="--", color="grey", label="as many times faster")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_yticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("workers")
    axes.set_ylabel("images/s, times one worker's")
    axes.legend()
    with atomic_write(folder / "scaling.png") as partial:
        figure.savefig(partial, format="png", dpi=120)
