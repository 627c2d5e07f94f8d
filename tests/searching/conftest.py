"""A search on paper: trials with metrics, no training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dynat_ray.searching.space import parse_space
from dynat_ray.searching.study import Search, SearchOptions
from dynat_ray.searching.trial_records import Trial, trial_folder, write_trial
from dynat_ray.settings import build_config

SPACE = {
    "method.name": "dynat",
    "method.gap_coef": {"uniform": [0, 1]},
    "method.kl_temperature": {"loguniform": [0.1, 10]},
    "optim.name": {"choice": ["sgd", "adamw"]},
}


def make_search(**options: Any) -> Search:
    space = parse_space(SPACE)
    default = build_config([{"train.epochs": 4, **space.fixed}])
    return Search(space, default, SearchOptions(**{"trials": 5, "first_rung": 1} | options))


def metrics_line(epoch: int, clean: float, robust: float | None) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "epochs_done": epoch + 1.0,
        "forward_units": 22.0 * (epoch + 1),
        "elapsed": 2.0 * (epoch + 1),
        "validation_clean_accuracy": None if robust is None else clean,
        "validation_robust_accuracy": robust,
        "best": robust is not None,
    }


def metrics_lines(robust: Sequence[float | None]) -> list[dict[str, Any]]:
    """Returns an epoch's line for each robust accuracy, the clean one 10 more."""
    lines = [metrics_line(epoch, (r or 0) + 10, r) for epoch, r in enumerate(robust)]
    highest = -1.0
    for line, r in zip(lines, robust, strict=True):
        line["best"] = r is not None and r > highest
        highest = max(highest, r or 0)
    return lines


@pytest.fixture
def add_trial(tmp_path: Path) -> Callable[..., Trial]:
    """Writes a trial whose robust accuracy (and clean, 10 more) goes as `robust` says."""

    def add(number: int, robust: list[float | None], **content: Any) -> Trial:
        settings = {
            "method.gap_coef": number / 10,
            "method.kl_temperature": 1.0 + number,
            "optim.name": "sgd",
        }
        lines = metrics_lines(robust)
        trial = Trial(**{"number": number, "settings": settings, "metrics": lines} | content)
        write_trial(tmp_path, trial)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (trial_folder(tmp_path, number) / "metrics.jsonl").write_text(text)
        return trial

    return add
