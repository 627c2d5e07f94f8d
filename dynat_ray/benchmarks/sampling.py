"""How much time `autoattack-sampled` saves, and what it costs in width of the interval.

A trained model is attacked once, with every survivor tried: a record of what became of each image
and of how long both rounds took. Any sampling of the same images follows from it.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynat_ray.benchmarks.attack_record import Record, record_attack
from dynat_ray.evaluation.second_stage import wilson
from dynat_ray.report.text import align_columns

_IMAGES = (1000, 2000, 5000, 10_000)
_SECOND_STAGES = (40, 100, 200)
_SEEDS = 10


def measure(
    *, run: Path, images: int, record: Path, data: Path | None = None, workers: int = 1
) -> dict[str, Any]:
    """Records AutoAttack on test images of a trained run, and replays samplings of it.

    Args:
        run: A run folder; its data and threat are taken.
        images: Of the test split, at most.
        record: Folder of the record; what it holds is not done again.
        data: Other prepared data.
        workers: 1: this process; more: Ray workers.

    Returns:
        `samplings`, a row for each number of images and second stage, and the `seconds` of the
        first and the last stages for all images.
    """
    for recorded in record_attack(run, record, images=images, data=data, workers=workers):
        rows = replays(recorded)
        print(table(rows), flush=True)
    return {
        "run": run.name,
        "images": recorded.outcome.samples,
        "seconds": dict(zip(("first stages", "last stages"), recorded.seconds, strict=True)),
        "samplings": rows,
    }


def replays(record: Record) -> list[dict[str, Any]]:
    """Returns a row for each number of images that was recorded and each second stage."""
    total = record.outcome.samples
    return [
        _row(record.first(images), second_stage)
        for images in sorted({*(n for n in _IMAGES if n < total), total})
        for second_stage in _SECOND_STAGES
    ]


def _row(record: Record, second_stage: int) -> dict[str, Any]:
    whole, seconds = record.outcome.estimate, sum(record.seconds)
    drawn = [record.sampled(second_stage, seed) for seed in range(_SEEDS)]
    found = [each.outcome.estimate for each in drawn]
    taken = statistics.fmean(sum(each.seconds) for each in drawn)
    width = statistics.fmean(each.high - each.low for each in found)
    stage = drawn[0].outcome.second_stage
    assert stage is not None
    # As many images as all stages do in the time of the sampling.
    fewer = max(1, round(record.outcome.samples * taken / seconds))
    low, high = wilson(whole.accuracy / 100, fewer)
    return {
        "images": record.outcome.samples,
        "survivors": record.survivors,
        "second_stage": second_stage,
        "tried": int(stage.tried.sum()),
        "seconds": round(seconds, 1),
        "sampled_seconds": round(taken, 1),
        "faster": round(seconds / taken, 2),
        "accuracy": round(whole.accuracy, 2),
        "width": round(whole.high - whole.low, 2),
        "sampled_width": round(width, 2),
        "wider": round(width / (whole.high - whole.low), 3),
        "width_for_equal_time": round(width / (100 * (high - low)), 3),
        "seeds": _SEEDS,
        "exact_inside": sum(each.low <= whole.accuracy <= each.high for each in found),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the rows as lines."""
    heads = {
        "images": "images",
        "survivors": "survivors",
        "second_stage": "second stage",
        "tried": "tried",
        "seconds": "s, all",
        "sampled_seconds": "s, sampled",
        "faster": "faster",
        "accuracy": "accuracy",
        "width": "width",
        "sampled_width": "sampled",
        "wider": "wider",
        "width_for_equal_time": "equal time",
        "exact_inside": f"inside, of {_SEEDS}",
    }
    return align_columns(
        [list(heads.values()), *([str(row[key]) for key in heads] for row in rows)]
    )
