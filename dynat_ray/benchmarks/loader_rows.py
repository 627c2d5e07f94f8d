"""The loaders beside one another: FFCV from this disk, from memory, and out of a store."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dynat_ray.benchmarks import loader_time
from dynat_ray.benchmarks.loopback_store import loopback_store
from dynat_ray.data import fetch_split, load_info
from dynat_ray.data.info import DESCRIPTION
from dynat_ray.data.preparing.part_sending import PartSender

SECONDS_PER_REQUEST = 0.02


def measure(
    *,
    path: Path | None = None,
    images: int = 50_000,
    epochs: int = 10,
    threads: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Times each loader over the same images.

    Args:
        path: Prepared folder; None: random RGB images of 32 x 32, made here.
        images: How many random images.
        epochs: Epochs to time of each, at least one, after a first one.
        threads: See `loader_time.measure`.
        device: Where batches go.

    Returns:
        What `loader_time.measure` returns for `auto`, and `rows`: the same by name, of `ffcv`,
        `memory` and `staged`, which is `auto` out of a store on this machine that lets each request
        wait 20 ms, and also has `fetch_seconds` and `fetched_bytes`. `ffcv` is left out without
        FFCV, `memory` where there are no tensors, `staged` without moto.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = path or loader_time.random_images(Path(made), images)
        time_loader = partial(loader_time.measure, epochs=epochs, threads=threads, device=device)
        found = time_loader(path=folder)
        return found | {"rows": _rows(folder, found, time_loader)}


def _rows(
    folder: Path, local: dict[str, Any], time_loader: Callable[..., dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    rows = {str(local["loader"]): local}
    if "train.safetensors" in load_info(folder).files and "memory" not in rows:
        rows["memory"] = time_loader(path=folder, kind="memory")
    try:
        with loopback_store(SECONDS_PER_REQUEST) as store, _empty_cache() as cache:
            _send(folder, f"{store}/set")
            began = time.perf_counter()
            fetch_split(f"{store}/set", "train", "auto")
            seconds = time.perf_counter() - began
            files = [*cache.rglob("train.beton"), *cache.rglob("train.safetensors")]
            rows["staged"] = time_loader(path=f"{store}/set") | {
                "fetch_seconds": seconds,
                "fetched_bytes": sum(file.stat().st_size for file in files),
            }
    except ModuleNotFoundError as error:
        print(f"staged is left out: the package {error.name} is not installed", flush=True)
    return rows


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns them as lines."""
    lines = []
    for name, row in rows.items():
        speed = row["images_per_second"]["median"]
        line = f"{name:<8} {speed:>11,.0f} images/s, waiting {100 * row['waiting']:.1f} %"
        if "fetch_seconds" in row:
            rate = row["fetched_bytes"] / row["fetch_seconds"] / 1e6
            line += f", after {row['fetch_seconds']:.1f} s of fetching ({rate:,.0f} MB/s)"
        lines.append(f"{line}\n")
    return "".join(lines)


def _send(folder: Path, address: str) -> None:
    """Puts a prepared folder into a store, in parts."""
    with tempfile.TemporaryDirectory() as scratch:
        # What is sent is removed.
        copy = shutil.copytree(folder, Path(scratch) / "set")
        info = load_info(copy)
        (copy / DESCRIPTION).unlink()
        with closing(PartSender(address)) as sender:
            for name in info.files:
                sender.send_file(copy / name)
            sender.finish(copy, info)


@contextmanager
def _empty_cache() -> Iterator[Path]:
    before = os.environ.get("DYNAT_RAY_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["DYNAT_RAY_CACHE"] = cache
        try:
            yield Path(cache)
        finally:
            if before is None:
                del os.environ["DYNAT_RAY_CACHE"]
            else:
                os.environ["DYNAT_RAY_CACHE"] = before
