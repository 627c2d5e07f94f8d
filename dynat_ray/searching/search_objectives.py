"""What a search is for: an objective, and where `metrics.jsonl` has its accuracy."""

from __future__ import annotations

OBJECTIVES = {"robust": "validation_robust_accuracy", "clean": "validation_clean_accuracy"}
