"""From a model to a number that can be trusted: samples, shards, outcomes, checks."""

from __future__ import annotations

from dynat_ray.evaluation.in_process import evaluate_attacks
from dynat_ray.evaluation.outcomes import Outcome
from dynat_ray.evaluation.progress_bar import progress_bar
from dynat_ray.evaluation.shards import evaluate_shard

__all__ = ["Outcome", "evaluate_attacks", "evaluate_shard", "progress_bar"]
