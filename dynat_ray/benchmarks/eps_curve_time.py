"""What AutoAttack at four eps costs against AutoAttack at each of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dynat_ray.attacks.registry import get_attacks
from dynat_ray.benchmarks.turns import cpu_threads, seconds_of
from dynat_ray.data import load_info, load_split
from dynat_ray.evaluation.plan import EvaluationPlan
from dynat_ray.evaluation.shards import FinishedShard, run_shards
from dynat_ray.models import load_model
from dynat_ray.perturb.threat import Threat
from dynat_ray.storage.run_folder import read_run_config

_IMAGES = 60
# Of the eps of the run: of digits 0, 0.05, 0.15 and 0.3.
_MULTIPLES = (0, 1 / 3, 1, 2)


def measure(*, run: Path, data: Path | None = None, images: int = _IMAGES) -> dict[str, Any]:
    """Times AutoAttack on test images of a trained run, at four eps together and one by one.

    Args:
        run: A run folder.
        data: Other prepared data than the run's.
        images: Class-balanced number of test images.

    Returns:
        For each of `eps` the `accuracy` in percent on the curve and the `seconds` that it takes
        alone, `curve_seconds`, and these by the seconds of the largest and of the costliest eps.
    """
    config = read_run_config(run)
    network, path = load_model(run), data or Path(config.data.path)
    pixels, labels = load_split(path, "test", image_size=config.data.image_size, limit=images)
    radii = [multiple * config.threat.eps for multiple in _MULTIPLES]

    def plan(eps: list[float]) -> EvaluationPlan:
        return EvaluationPlan(
            samples=len(labels),
            classes=load_info(path).num_classes,
            attacks=get_attacks(["autoattack"]),
            threats=[Threat(config.threat.norm, each) for each in eps],
            costly_positions=np.arange(len(labels)),
            seed=0,
            batch_size=images,
        )

    def run_plan(eps: list[float]) -> list[FinishedShard]:
        return list(run_shards(network, pixels, labels, plan(eps).shards(), seed=0))

    with cpu_threads(1):
        # What is done once, such as finding the network's twin, is not timed.
        run_plan([0.0])
        alone = [seconds_of(partial(run_plan, [eps]), "cpu") for eps in radii]
        finished: list[FinishedShard] = []
        together = seconds_of(lambda: finished.extend(run_plan(radii)), "cpu")
    found = plan(radii).outcomes(finished)
    return {
        "images": len(labels),
        "eps": radii,
        "accuracy": [round(each["autoattack"].accuracy, 2) for each in found.values()],
        "seconds": [round(seconds, 1) for seconds in alone],
        "curve_seconds": round(together, 1),
        "by_largest": round(together / alone[-1], 2),
        "by_costliest": round(together / max(alone), 2),
    }
