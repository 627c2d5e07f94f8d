"""The loaders beside one another: FFCV from this disk, from memory, and out of a store, once for
all or image by image."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynat_ray.benchmarks.loader_time import AUGMENTATION, BATCH, random_images, run_epoch
from dynat_ray.benchmarks.loopback_store import empty_cache, loopback_store
from dynat_ray.benchmarks.turns import cpu_threads, in_turn
from dynat_ray.data import (
    Augmentation,
    BatchPlan,
    Loader,
    ReadingOptions,
    build_loader,
    fetch_split,
    fetch_to_stream,
    load_info,
)
from dynat_ray.data.beton_check import check_beton
from dynat_ray.data.info import DESCRIPTION, DatasetInfo
from dynat_ray.data.preparing.part_sending import CutFile, PartSender
from dynat_ray.data.readers import Kind
from dynat_ray.training.timing import LoaderTime

_SECONDS_PER_REQUEST = 0.02
_SECONDS_PER_STEP = 0.01
# Images that are fetched one by one: the server takes a millisecond of a core for each.
_STREAMED = 4096
_PARTS = 30


def measure(
    *,
    path: Path | None = None,
    images: int = 50_000,
    rounds: int = 3,
    threads: int = 0,
    device: str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Times epochs of each loader over the same images, in turn, in one process.

    Args:
        path: Prepared folder; None: random RGB images of 32 x 32, made here.
        images: How many random images.
        rounds: Epochs of each, at least one, after a first one for start-up.
        threads: CPU threads, both of PyTorch and for decoding; 0: all cores.
        device: Where batches go.

    Returns:
        By name: `ffcv`; `memory`, where there are tensors; `staged`, the first of these out of a
        store on this machine that lets each request wait 20 ms; `streaming`, which fetches each
        image from there (4,096 at most) when it is wanted; and `kept`, the same in later epochs,
        when all of these are on the disk. Without FFCV there is no `ffcv`, `streaming` and `kept`,
        without moto none out of a store. Of each `images_per_second` (`median`, `min`, `max` over
        the epochs) and `waiting`, the share of its time that a loop waits for images whose steps
        take 10 ms; of `staged` also `fetch_seconds` and `fetched_bytes`.
    """
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = path or random_images(made, images)
        threads = stack.enter_context(cpu_threads(threads))
        open_loader = partial(_open, threads=threads, device=device)
        first = open_loader(folder, "auto")
        loaders = {first.kind: first}
        if "memory" not in loaders and "train.safetensors" in load_info(folder).files:
            loaders["memory"] = open_loader(folder, "memory")
        staged, streaming = {}, {}
        try:
            address = f"{stack.enter_context(loopback_store(_SECONDS_PER_REQUEST))}/set"
        except ModuleNotFoundError as error:
            print(f"stores are left out: the package {error.name} is not installed", flush=True)
        else:
            _send(folder, address)
            open_streamed = partial(open_loader, address, "ffcv", images=_STREAMED, streamed=True)
            if "ffcv" in loaders:
                streaming = _stream(open_streamed, load_info(folder).num_classes, rounds)
            cache = stack.enter_context(empty_cache())
            if streaming:
                # Before the others come: what is kept are single images.
                loaders["kept"] = open_streamed()
                _read_all(loaders["kept"])
            staged = _fetch(address, cache)
            loaders["staged"] = open_loader(address, "auto")
        for loader in loaders.values():
            stack.callback(loader.close)
        rows = _rows(loaders, load_info(folder).num_classes, rounds)
    if staged:
        rows["staged"] |= staged
    if streaming:
        rows["streaming"] = streaming
    return rows


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns them as lines."""
    lines = []
    for name, row in rows.items():
        speed = row["images_per_second"]["median"]
        line = f"{name:<9} {speed:>10,.0f} images/s, waiting {100 * row['waiting']:.1f} %"
        if "fetch_seconds" in row:
            rate = row["fetched_bytes"] / row["fetch_seconds"] / 1e6
            line += f", after {row['fetch_seconds']:.1f} s of fetching ({rate:,.0f} MB/s)"
        lines.append(f"{line}\n")
    return "".join(lines)


def _open(
    place: Path | str,
    kind: Kind,
    *,
    threads: int,
    device: str,
    images: int | None = None,
    streamed: bool = False,
) -> Loader:
    if streamed:
        fetch_to_stream(place, "train")
    return build_loader(
        place,
        "train",
        np.arange(load_info(place).counts["train"])[:images],
        BatchPlan(batch_size=BATCH, seed=0),
        ReadingOptions(device=torch.device(device), kind=kind, threads=threads, streamed=streamed),
    )


def _read_all(loader: Loader, start_step: int = 0) -> None:
    for _ in loader.iterate(0, start_step):
        pass


def _rows(loaders: Mapping[str, Loader], classes: int, rounds: int) -> dict[str, dict[str, Any]]:
    augmentation, epochs = Augmentation(list(AUGMENTATION), seed=0), count()

    def load(loader: Loader) -> float:
        return run_epoch(loader, augmentation, next(epochs), classes)

    def wait(loader: Loader) -> float:
        return waited_for(loader, augmentation, next(epochs), classes)

    for loader in loaders.values():
        load(loader)
    seconds, waited = (
        in_turn(
            what,
            {name: partial(call, loader) for name, loader in loaders.items()},
            rounds,
            first_in_turn=True,
        )
        for what, call in (("loading", load), ("waiting", wait))
    )
    return {name: _row(loader, seconds[name], waited[name]) for name, loader in loaders.items()}


def _stream(open_streamed: Callable[[], Loader], classes: int, rounds: int) -> dict[str, Any]:
    """Returns the row of epochs in which every image comes from the store."""
    augmentation = Augmentation(list(AUGMENTATION), seed=0)
    seconds: list[float] = []
    waited: list[float] = []
    for call, found in ((run_epoch, seconds), (waited_for, waited)) * rounds:
        # Nothing is kept of the epoch before, but the last batch, with which FFCV is compiled.
        with empty_cache(), closing(open_streamed()) as loader:
            _read_all(loader, loader.steps - 1)
            found.append(call(loader, augmentation, 0, classes))
    return _row(loader, seconds, waited)


def _row(loader: Loader, seconds: Sequence[float], waited: Sequence[float]) -> dict[str, Any]:
    """Returns what is said of a loader whose epochs took `seconds`, or were `waited` for."""
    speeds = [loader.samples / each for each in seconds]
    worked = loader.steps * _SECONDS_PER_STEP
    return {
        "images_per_second": {
            "median": statistics.median(speeds),
            "min": min(speeds),
            "max": max(speeds),
        },
        "waiting": statistics.median(each / (each + worked) for each in waited),
    }


def waited_for(loader: Loader, augmentation: Augmentation, epoch: int, classes: int) -> float:
    """Returns how many seconds a loop of steps that take 10 ms waits for images in an epoch."""
    waiting = LoaderTime()
    for batch in waiting.over(loader.iterate(epoch)):
        augmentation(batch.images, batch.labels, batch.indices, epoch, classes)
        time.sleep(_SECONDS_PER_STEP)
    return waiting.take()


def _send(folder: Path, address: str) -> None:
    """Puts a prepared folder into a store, in parts."""
    with tempfile.TemporaryDirectory() as scratch:
        # What is sent is removed.
        copy = shutil.copytree(folder, Path(scratch) / "set")
        info = load_info(copy)
        (copy / DESCRIPTION).unlink()
        with closing(PartSender(address)) as sender:
            for name in info.files:
                if name == "train.beton":
                    _send_beton(sender, info, copy / name)
                else:
                    sender.send_file(copy / name)
            sender.finish(copy, info)


def _send_beton(sender: PartSender, info: DatasetInfo, file: Path) -> None:
    """Sends a beton cut as `prepare` cuts large ones: what is no image lies in parts of its own."""
    tables = check_beton(info, file)
    starts, end = np.sort(tables.starts), int((tables.starts + tables.lengths).max())
    cuts = np.linspace(0, len(starts), _PARTS, endpoint=False).astype(np.int64)
    borders = [*np.unique(starts[cuts]).tolist(), end, file.stat().st_size]
    content = memoryview(file.read_bytes())
    parts = CutFile(sender, file, len(borders))
    parts.begin(borders[0])
    for number, (first, after) in enumerate(pairwise(borders)):
        if number:
            parts.cut()
        parts.write(content[first:after])
    parts.close(bytes(content[: borders[0]]))
    file.unlink()


def _fetch(address: str, cache: Path) -> dict[str, float]:
    began = time.perf_counter()
    fetch_split(address, "train", "auto")
    seconds = time.perf_counter() - began
    files = [*cache.rglob("train.beton"), *cache.rglob("train.safetensors")]
    return {
        "fetch_seconds": seconds,
        "fetched_bytes": sum(file.stat().st_size for file in files),
    }
