"""From a model to a number that can be trusted: samples, shards, outcomes, checks."""

from __future__ import annotations

from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.robust_accuracy import evaluate_attacks

__all__ = ["Outcome", "evaluate_attacks"]
