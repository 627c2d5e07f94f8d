"""The numbers that follow from what probes measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynat_ray.attacks.minimal import DEEPFOOL_STEPS, OVERSHOOT
from dynat_ray.config import Norm
from dynat_ray.evaluation.batches import BATCH_SIZE
from dynat_ray.evaluation.images import Images, read_images
from dynat_ray.evaluation.outcomes import Outcome

_QUARTILES = (25, 50, 75)


def summarise(probed: Mapping[str, Outcome], images: Images, norm: Norm) -> dict[str, Any]:
    """Returns `distances` and `corruptions`, those of them that were measured, JSON values.

    Args:
        probed: What came out for each probe.
        images: All that were evaluated.
        norm: Of the evaluation.
    """
    distances: dict[str, Any] = {}
    if "deepfool" in probed:
        distances["deepfool"] = summarise_deepfool(probed["deepfool"], images)
    if "fab" in probed:
        distances["fab"] = summarise_fab(probed["fab"], norm)
    corrupted = {name: found for name, found in probed.items() if found.distances is None}
    content: dict[str, Any] = {"distances": distances} if distances else {}
    if corrupted:
        content["corruptions"] = summarise_corruptions(corrupted)
    return content


def summarise_deepfool(outcome: Outcome, images: Images) -> dict[str, Any]:
    """Returns rho_2 and what it rests on, JSON values.

    rho_2 is the mean over all images, wrong ones too, of `||perturbation||_2 / ||image||_2`, with
    images in [0, 1].

    Args:
        outcome: DeepFool's.
        images: All that were evaluated.
    """
    assert outcome.distances is not None
    sizes = _lengths(images, outcome.positions)
    # An all-black image has no length to compare with.
    seen = sizes > 0
    relative = outcome.distances[seen] / sizes[seen]
    return {
        "norm": "L2",
        "rho_2": round(float(relative.mean()), 6),
        "median": round(float(np.median(outcome.distances)), 6),
        "samples": int(seen.sum()),
        "steps": DEEPFOOL_STEPS,
        "overshoot": OVERSHOOT,
    }


def _lengths(images: Images, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the L2 norm `(n,)` of some images."""
    return np.concatenate(
        [
            read_images(images, positions[start : start + BATCH_SIZE])
            .flatten(1)
            .norm(dim=1)
            .numpy()
            for start in range(0, len(positions), BATCH_SIZE)
        ]
    ).astype(np.float64)


def summarise_fab(outcome: Outcome, norm: Norm) -> dict[str, Any]:
    """Returns median and quartiles of the distance over the images that are right unattacked."""
    assert outcome.distances is not None
    right = outcome.distances[outcome.distances > 0]
    entry: dict[str, Any] = {
        "norm": norm,
        "samples": outcome.samples,
        "right_without_attack": len(right),
        "found": int(np.isfinite(right).sum()),
    }
    if len(right):
        # Without interpolation: between a finite and an infinite distance there is none.
        low, median, high = (
            float(value) for value in np.percentile(right, _QUARTILES, method="lower")
        )
        entry |= {
            "median": round(median, 6) if np.isfinite(median) else None,
            "quartiles": [round(x, 6) if np.isfinite(x) else None for x in (low, high)],
        }
    return entry


def summarise_corruptions(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Returns accuracies in percent by corruption and severity, and their mean, JSON values."""
    by_kind: dict[str, dict[str, float]] = {}
    for name, outcome in outcomes.items():
        kind, _, severity = name.rpartition("-")
        by_kind.setdefault(kind, {})[severity] = round(outcome.accuracy, 3)
    means = {kind: float(np.mean(list(found.values()))) for kind, found in by_kind.items()}
    return {
        "mean": round(float(np.mean(list(means.values()))), 3),
        "samples": next(iter(outcomes.values())).samples,
        "accuracy": {
            kind: {**found, "mean": round(means[kind], 3)} for kind, found in by_kind.items()
        },
    }
