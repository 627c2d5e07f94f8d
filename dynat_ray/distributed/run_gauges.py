"""What a run measures of itself, as Ray's metrics, which Prometheus reads from every node.

`cluster/kuberay/components/monitoring` has Grafana's panels for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Gauge

# By their name in `metrics.jsonl`; Prometheus knows each as `ray_dynat_ray_NAME`.
GAUGES = {
    "epoch": "The epoch that has ended, from 0.",
    "loss": "Mean training loss of the epoch.",
    "validation_clean_accuracy": "Validation images right without attack, in percent.",
    "validation_robust_accuracy": "Validation images right under PGD, in percent.",
    "attacked_share": "Training samples that have a budget, in percent.",
    "mean_eps": "Mean budget of those.",
    "mean_attack_steps": "Mean number of attack steps of those.",
    "images_per_second": "Training images a second, over all workers.",
    "seconds": "Time that the epoch's steps took.",
    "loader_seconds": "How long of it the worker that waited longest waited for images.",
    "workers": "Workers that trained the epoch.",
}


class RunGauges:
    """The gauges of one run; its first worker has them.

    Args:
        run: The run's name, which tells its values from those of others.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges = {
            name: Gauge(f"dynat_ray_{name}", description, tag_keys=("run",))
            for name, description in GAUGES.items()
        }

    def set(self, line: Mapping[str, Any]) -> None:
        """Takes over an epoch's line of `metrics.jsonl`; what it does not have stays as it was."""
        for name, gauge in self._gauges.items():
            if line.get(name) is not None:
                gauge.set(float(line[name]), {"run": self._run})
