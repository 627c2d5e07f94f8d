"""What a run says about itself before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynat_ray.config import RunConfig, ThreatConfig
from dynat_ray.data import DatasetInfo
from dynat_ray.radius import format_radius
from dynat_ray.shown_text import shown_text
from dynat_ray.storage.run_length import RunLength

_LONGEST_NAME = 60


def describe_run(
    config: RunConfig, info: DatasetInfo, folder: Path | str, facts: dict[str, Any]
) -> str:
    """Returns the header: what the run is, where it computes, and its folder.

    Args:
        config: The run.
        info: Its data set.
        folder: Its folder, or address.
        facts: `workers`, `device` and `loader` as they really are.
    """
    rows = run_facts(config, info, facts) | {"folder": shown_text(str(folder))}
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items())


def run_facts(
    config: RunConfig, info: DatasetInfo | None, facts: Mapping[str, Any]
) -> dict[str, str]:
    """Returns what a run is, a short line for each fact.

    Args:
        config: The run.
        info: Its data set; None: it is gone.
        facts: As for `describe_run`, and once it is known in which `precision` and by which device
            (`device_name`) it was computed.
    """
    threat = config.threat
    data = config.data.path
    if info is not None:
        size = "x".join(map(str, info.size)) if info.size else "images of several sizes"
        limited = 0 < config.data.limit < info.counts["train"]
        count = f"{config.data.limit:,} of " if limited else ""
        data = (
            f"{shown_text(info.name, _LONGEST_NAME)}: {count}{info.counts['train']:,} training and "
            f"{info.counts['test']:,} test images, {size}, {info.num_classes} classes"
        )
    precision: str = config.train.precision
    if facts.get("precision", precision) != precision:
        precision = f"{facts['precision']} instead of {precision}"
    workers = ""
    if {"workers", "device", "loader"} <= facts.keys():
        name = f" ({facts['device_name']})" if "device_name" in facts else ""
        workers = f"{facts['workers']} on {facts['device']}{name}, loader {facts['loader']}"
    rows = {
        "data": data,
        "model": " ".join(
            [config.model.name, *(f"{k}={v}" for k, v in config.model.kwargs.items())]
        ),
        "method": config.method.name,
        "threat": f"{threat.norm}, eps {format_radius(threat.eps, threat.norm)}{_further(threat)}",
        "attack": f"{_steps(config)} steps in training{_shortfall(config)}",
        "training": f"{RunLength.of(config.train)}, batch {config.train.batch_size}, {precision}",
        "seed": str(config.train.seed),
        "workers": workers,
    }
    return {name: shown_text(value) for name, value in rows.items()}


def _further(threat: ThreatConfig) -> str:
    return f" (training: {threat.combination} of it and {', '.join(threat.norms)})" * bool(
        threat.norms
    )


def _steps(config: RunConfig) -> str:
    attack, method = config.attack, config.method
    first, last = (method.most_steps(steps) for steps in (attack.first_steps, attack.steps))
    return f"{first} to {last}" if 0 < first < last else str(last)


def _shortfall(config: RunConfig) -> str:
    """Returns what to say of steps too short to reach the border of the ball; mostly nothing."""
    reach = config.attack.steps * config.step_size()
    if config.attack.carry_epochs or not 0 < reach < (1 - 1e-6) * config.threat.eps:
        return ""
    return f", which reach {100 * reach / config.threat.eps:.0f} % of eps"
