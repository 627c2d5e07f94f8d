"""How fast augmented images arrive, and whether memory stays level."""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynat_ray.benchmarks.turns import Progress
from dynat_ray.data import (
    Augmentation,
    BatchPlan,
    Loader,
    ReadingOptions,
    build_loader,
    load_info,
)
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.readers import Kind

AUGMENTATION = ("crop", "flip")
BATCH = 256


def measure(
    *,
    path: Path | None = None,
    kind: Kind = "auto",
    images: int = 50_000,
    epochs: int = 10,
    threads: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Times whole epochs of loading and augmenting (crop, flip) in one process.

    Args:
        path: Prepared folder; None: random RGB images of 32 x 32, made here.
        kind: Which loader.
        images: How many random images.
        epochs: Epochs to time, at least one, after a first one for start-up.
        threads: CPU threads, both of PyTorch and for decoding; 0: all cores.
        device: Where batches go.

    Returns:
        `loader` (which it was), `images`, `threads`, `startup_seconds` (first epoch),
        `images_per_second` (`median`, `min`, `max` over the epochs), `memory_bytes` (resident set
        of the process after each epoch) and `memory_growth_bytes` (from the first timed epoch to
        the last).
    """
    threads = threads or len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if path is not None:
            return _measure(path, kind, epochs, threads, torch.device(device))
        with tempfile.TemporaryDirectory() as folder:
            made = random_images(Path(folder), images)
            return _measure(made, kind, epochs, threads, torch.device(device))
    finally:
        torch.set_num_threads(before)


def _measure(
    path: Path, kind: Kind, epochs: int, threads: int, device: torch.device
) -> dict[str, Any]:
    info = load_info(path)
    count = info.counts["train"]
    began = time.perf_counter()
    loader = build_loader(
        path,
        "train",
        np.arange(count),
        BatchPlan(batch_size=BATCH, seed=0),
        ReadingOptions(device=device, kind=kind, threads=threads),
    )
    augmentation = Augmentation(list(AUGMENTATION), seed=0)
    try:
        run_epoch(loader, augmentation, 0, info.num_classes)
        startup = time.perf_counter() - began
        progress = Progress("loader", epochs)
        speeds, memory = [], []
        for epoch in range(1, epochs + 1):
            speeds.append(count / run_epoch(loader, augmentation, epoch, info.num_classes))
            memory.append(_resident_bytes())
            progress.done(f"epoch {epoch} of {epochs}  {speeds[-1]:,.0f} images/s")
    finally:
        loader.close()
    return {
        "loader": loader.kind,
        "images": count,
        "threads": threads,
        "startup_seconds": startup,
        "images_per_second": {
            "median": statistics.median(speeds),
            "min": min(speeds),
            "max": max(speeds),
        },
        "memory_bytes": memory,
        "memory_growth_bytes": memory[-1] - memory[0],
    }


def run_epoch(loader: Loader, augmentation: Augmentation, epoch: int, classes: int) -> float:
    """Runs an epoch; returns its seconds."""
    began = time.perf_counter()
    for batch in loader.iterate(epoch):
        last = augmentation(batch.images, batch.labels, batch.indices, epoch, classes)
    last.images[0, 0, 0, 0].item()  # Waits for the device.
    return time.perf_counter() - began


def random_images(folder: Path, count: int) -> Path:
    """Prepares random RGB images of 32 x 32 in a folder; returns the data set's."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "random.npz", image=pixels, label=np.arange(count) % 10)
    prepare_dataset(f"npz:{folder / 'random.npz'}", folder / "prepared", progress=False)
    return folder / "prepared"


def _resident_bytes() -> int:
    """Returns the memory of this process that is resident now (its peak where that is unknown)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
