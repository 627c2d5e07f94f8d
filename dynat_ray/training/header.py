"""What a run says about itself before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynat_ray.config import RunConfig
from dynat_ray.data import DatasetInfo


def describe_run(config: RunConfig, info: DatasetInfo, folder: Path, facts: dict[str, Any]) -> str:
    """Returns the header: data, model, method, threat, workers, loader, precision, folder.

    Args:
        config: The run.
        info: Its data set.
        folder: Its folder.
        facts: `workers`, `device` and `loader` as they really are.
    """
    attack, threat = config.attack, config.threat
    eps = f"{255 * threat.eps:.3g}/255" if threat.norm == "Linf" else f"{threat.eps:.3g}"
    size = "x".join(map(str, info.size)) if info.size else "images of several sizes"
    count = f"{config.data.limit:,} of " if config.data.limit else ""
    rows = {
        "data": f"{info.name}: {count}{info.counts['train']:,} training and "
        f"{info.counts['test']:,} test images, {size}, {info.num_classes} classes",
        "model": " ".join(
            [config.model.name, *(f"{k}={v}" for k, v in config.model.kwargs.items())]
        ),
        "method": config.method.name,
        "threat": f"{threat.norm}, eps {eps}; training attack: {attack.steps} steps",
        "training": f"{config.train.epochs} epochs, batch {config.train.batch_size}, "
        f"{config.train.precision}, seed {config.train.seed}",
        "workers": f"{facts['workers']} on {facts['device']}, loader {facts['loader']}",
        "folder": str(folder),
    }
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items())
