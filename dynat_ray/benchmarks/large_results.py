"""What a run of ImageNet's size leaves: rows of its samples, a report, an evaluation's state."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.data import load_info
from dynat_ray.distributed.evaluation_run import evaluate
from dynat_ray.evaluation.request import Options, complete
from dynat_ray.evaluation.results import beside
from dynat_ray.evaluation.subject import load_subject
from dynat_ray.report import write_report
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.training.telemetry import COLUMNS, EpochRecord

IMAGENET = 1_281_167
IMAGENET_CLASSES = 1000
# As many outcomes an image as the usual three attacks have.
_ATTACKS = "clean,pgd-1,cw-1"
_SHARD = 500


def write_samples(file: Path, rows: int) -> dict[str, Any]:
    """Writes an epoch's rows as a run does, with random values, which compress least.

    Args:
        file: Parquet file.
        rows: How many.

    Returns:
        `rows`, `bytes`, and what it `took` (`seconds`, and `cpu_seconds` of this process).
    """
    random = np.random.default_rng(0)
    columns: dict[str, NDArray[Any]] = {
        "index": random.permutation(rows),
        "label": random.integers(0, IMAGENET_CLASSES, rows),
        "predicted": random.integers(0, IMAGENET_CLASSES, rows).astype(np.float32),
        "attack_steps": random.integers(0, 4, rows).astype(np.float32),
    }
    for name in COLUMNS.keys() - columns.keys():
        columns[name] = random.random(rows, np.float32)
    columns["adversarial_gap"] -= 0.5
    record = EpochRecord(columns, np.ones(1), passes=rows, seconds=1.0, loader_seconds=0.0)
    took = _timed(lambda: record.write(file, rows))
    return {"rows": rows, "bytes": file.stat().st_size, "took": took}


def report(run: Path, rows: int) -> dict[str, Any]:
    """Builds the report of a run, and then again as if its epoch had so many samples.

    Args:
        run: A trained run's folder.
        rows: Of the second report.

    Returns:
        `classes`; `bytes` of the report and what it `took` (as of `write_samples`); `rows`,
        `large_bytes` and `large_took` of the second one.
    """
    classes = load_info(read_run_config(run).data.path).num_classes
    page = run / "report.html"
    found: dict[str, Any] = {"classes": classes, "took": _timed(lambda: write_report(run))}
    found["bytes"] = page.stat().st_size
    samples = max((run / "samples").glob("epoch_*.parquet"))
    kept = samples.rename(run / "samples.kept")
    try:
        write_samples(samples, rows)
        found |= {"rows": rows, "large_took": _timed(lambda: write_report(run))}
        found["large_bytes"] = page.stat().st_size
    finally:
        kept.replace(samples)
    return found


def _timed(call: Callable[[], object]) -> dict[str, float]:
    """Calls something; returns how long it took, and how long this process computed."""
    began, cpu = time.perf_counter(), time.process_time()
    call()
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def resume_evaluation(run: Path, images: int, workers: int) -> dict[str, Any]:
    """Evaluates training images, cuts off the last shard as a kill does, and goes on.

    Args:
        run: A trained run's folder.
        images: How many of its training images, at most.
        workers: 1: this process; more: Ray workers.

    Returns:
        `images`, `shards` and `state_bytes`; what the `first` evaluation took (as of
        `write_samples`, without Ray workers), and what `resumed` took: what went on with all but a
        shard, its files and page included; `page_bytes`.
    """
    subject = load_subject(str(run))
    out = run / "rehearsed.json"
    asked = Options(
        split="train",
        samples=images,
        attacks=_ATTACKS,
        batch_size=_SHARD,
        out=str(out),
    )
    request = replace(complete(subject, asked), out=out)
    first = _timed(lambda: evaluate(subject, request, workers=workers, resume=False))
    state = beside(out, ".state.jsonl")
    lines = state.read_bytes().splitlines(keepends=True)
    state.write_bytes(b"".join(lines[:-2]))
    resumed = _timed(lambda: evaluate(subject, request, workers=1, resume=True))
    return {
        "images": json.loads(out.read_text())["samples"],
        "shards": len(lines) - 2,
        "state_bytes": state.stat().st_size,
        "first": first,
        "resumed": resumed,
        "page_bytes": beside(out, ".html").stat().st_size,
    }
