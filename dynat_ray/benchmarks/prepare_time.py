"""`prepare` on a large set: memory, cores, and its speed by that of FFCV's writer and of Pillow."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dynat_ray.benchmarks.made_images import files_of
from dynat_ray.benchmarks.memory_watch import MemoryWatch, idle_seconds
from dynat_ray.benchmarks.turns import in_environment, in_turn, spread
from dynat_ray.data import load_info
from dynat_ray.data.ffcv_library import ffcv_module, ffcv_problem
from dynat_ray.errors import UserError

# As docs/data.md prepares ImageNet.
SIDE = 256
# Of what `prepare` stores.
_QUALITY = 90

_File = tuple[Path, int]


def prepare(images: Path, out: Path) -> dict[str, Any]:
    """Runs `python -m dynat_ray.prepare folder:IMAGES --size 256` and watches it.

    Args:
        images: Class folders in `train` and `test`.
        out: Folder to make.

    Returns:
        `images`, `seconds`, `images_per_second`, `stored_bytes`; `memory` in bytes, as
        `MemoryWatch.between` has it; `cores` that this machine has, `busy_cores` that the command
        kept busy, and `idle_cores` that nobody did.

    Raises:
        UserError: The command failed; it has said why.
    """
    command = [sys.executable, "-m", "dynat_ray.prepare", f"folder:{images}"]
    idle, began = idle_seconds(), time.time()
    process = subprocess.Popen([*command, "--out", str(out), "--size", str(SIDE)])
    try:
        with MemoryWatch(lambda: [process.pid]) as watch:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.terminate()
            process.wait()
    ended = time.time()
    if process.returncode:
        raise UserError(f"prepare ended with exit status {process.returncode}")
    count, seconds = sum(load_info(out).counts.values()), ended - began
    return {
        "images": count,
        "seconds": seconds,
        "images_per_second": count / seconds,
        "stored_bytes": sum(file.stat().st_size for file in out.iterdir()),
        "memory": next(iter(watch.between(began, ended).values()), None),
        "cores": len(os.sched_getaffinity(0)),
        "busy_cores": (usage.ru_utime + usage.ru_stime) / seconds,
        "idle_cores": (idle_seconds() - idle) / seconds,
    }


def compare(images: Path, scratch: Path, count: int, rounds: int) -> dict[str, Any]:
    """Times `prepare` beside FFCV's own writer and plain Pillow decoding, in turn.

    All three go through the same files in as many threads or processes as there are cores. Both
    writers store them in their own size as JPEG of the same quality; Pillow decodes them and that
    is all.

    Args:
        images: Class folders in `train` and `test`.
        scratch: Folder to work in.
        count: How many images, about.
        rounds: How often each is timed.

    Returns:
        `images`, `images_per_second` by name, and `ratios`: ours by each of the others.
    """
    subset = scratch / "subset"
    linked = _link_some(images, subset, count)
    calls: dict[str, Callable[[], float]] = {
        "prepare": partial(_alone, _ours, subset, scratch / "ours"),
        "pillow": partial(_alone, _pillow, subset),
    }
    if problem := ffcv_problem():
        print(f"FFCV's writer is left out: {problem}", flush=True)
    else:
        calls["ffcv_writer"] = partial(_alone, _ffcv, subset, scratch / "ffcv")
    seconds = in_turn("prepare", calls, rounds, first_in_turn=True)
    return {
        "images": linked,
        "images_per_second": {
            name: spread([linked / each for each in found]) for name, found in seconds.items()
        },
        "ratios": {
            f"prepare_by_{name}": spread(
                [other / own for own, other in zip(seconds["prepare"], found, strict=True)]
            )
            for name, found in seconds.items()
            if name != "prepare"
        },
    }


def _link_some(images: Path, subset: Path, count: int) -> int:
    """Links some images of every class and split into a folder; returns how many."""
    linked = 0
    for split in ("train", "test"):
        each = max(1, count // (2 * sum(1 for _ in (images / split).iterdir())))
        for file, _ in files_of(images, split, each):
            place = subset / file.relative_to(images)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
            linked += 1
    return linked


def _alone(call: Callable[..., float], *paths: Path) -> float:
    """Returns the seconds that a call has measured in a process of its own."""
    return in_environment({}, call, *paths)


def _ours(subset: Path, out: Path) -> float:
    # As the command, whose start is not a part of the speed.
    from dynat_ray.data.preparing import prepare_dataset

    ffcv_problem()
    began = time.perf_counter()
    prepare_dataset(f"folder:{subset}", out, progress=False)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return seconds


class _Decoded:
    """What FFCV's writer is given: pixels and label by number."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        file, label = self._files[number]
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB")), label


def _ffcv(subset: Path, out: Path) -> float:
    writer, fields = ffcv_module("writer"), ffcv_module("fields")
    # As in a script; this process's own way would have each of its processes import everything.
    multiprocessing.set_start_method("fork", force=True)
    out.mkdir()
    began = time.perf_counter()
    for split in ("train", "test"):
        writer.DatasetWriter(
            str(out / f"{split}.beton"),
            {
                "image": fields.RGBImageField(write_mode="jpg", jpeg_quality=_QUALITY),
                "label": fields.IntField(),
            },
            num_workers=len(os.sched_getaffinity(0)),
        ).from_indexed_dataset(_Decoded([*files_of(subset, split)]))
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return seconds


def _pillow(subset: Path) -> float:
    files = [file for split in ("train", "test") for file, _ in files_of(subset, split)]
    cores = len(os.sched_getaffinity(0))
    # As FFCV's writer does it.
    with ProcessPoolExecutor(cores, multiprocessing.get_context("fork")) as pool:
        list(pool.map(_decode, [[], *[[]] * cores]))
        began = time.perf_counter()
        list(pool.map(_decode, [files[start : start + 64] for start in range(0, len(files), 64)]))
        return time.perf_counter() - began


def _decode(files: Sequence[Path]) -> None:
    for file in files:
        with Image.open(file) as image:
            image.convert("RGB").load()
