"""Evaluation attacks and how a model's accuracy under them is measured; plain PyTorch."""

from __future__ import annotations

from dynat_ray.attacks.evaluate import evaluate_attacks
from dynat_ray.attacks.outcomes import Outcome
from dynat_ray.attacks.progress import progress_bar
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.attacks.shards import evaluate_shard

__all__ = ["Outcome", "evaluate_attacks", "evaluate_shard", "get_attacks", "progress_bar"]
