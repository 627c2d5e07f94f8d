"""What a run says of itself before it starts."""

from __future__ import annotations

from typing import Any

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.settings import override
from dynat_ray.storage.description import describe_run


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attack.step_size": 0}, ""),
        ({"attack.steps": 0}, ""),
        ({"attack.steps": 2, "attack.step_size": "0.025"}, ", which reach 50 % of eps"),
        ({"attack.steps": 2, "attack.step_size": "0.025", "attack.carry_epochs": 5}, ""),
    ],
)
def test_steps_too_short_for_the_budget_are_said(
    small_config: RunConfig, settings: dict[str, Any], words: str
) -> None:
    config = override(small_config, {"threat.eps": 0.1} | settings)
    info = load_info(config.data.path)
    (line,) = [
        line
        for line in describe_run(config, info, "x", {}).splitlines()
        if line.startswith("attack")
    ]
    assert line.endswith(f"{config.attack.steps} steps in training{words}")
