"""What Ray Tune hears of a trial: how far it is, and how accurate.

Ray Train's controller, which a trial waits for, imports this file; so it imports little.
"""

from __future__ import annotations

from typing import Any

# isort: split
import ray.train
from ray.tune.integration.ray_train import TuneReportCallback

from dynat_ray.distributed.placement_groups import GROUP
from dynat_ray.searching.search_objectives import OBJECTIVES
from dynat_ray.storage.run_length import RunLength

SPENT = "spent"
"""Epochs, or units of compute: a report may be repeated after a failure, or come without accuracy,
so that reports do not count."""


class ReportToTune(TuneReportCallback):
    """Sends what an epoch measured on to Tune."""

    def __init__(self, length: RunLength) -> None:
        super().__init__()
        self._length = length

    def after_report(
        self,
        run_context: Any,
        metrics: list[dict[str, Any]],
        checkpoint: ray.train.Checkpoint | None,
    ) -> None:
        if "epoch" not in metrics[0]:
            return  # A checkpoint inside an epoch measures nothing.
        report = tune_report(metrics[0], self._length) | {GROUP: metrics[0][GROUP]}
        super().after_report(run_context, [report], None)


def tune_report(line: dict[str, Any], length: RunLength) -> dict[str, Any]:
    """Returns what Tune needs of a line of `metrics.jsonl`: how far the trial is, and accuracies.

    Args:
        line: The line; it has no accuracies where none were measured.
        length: Of the trial, for what that is counted in.
    """
    measured = {name: line[name] for name in OBJECTIVES.values() if line[name] is not None}
    return {SPENT: length.spent(line), **measured}
