"""Every recipe has room on the nodes that the shipped files start, named as a command reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from dynat_ray.distributed import capacity
from dynat_ray.distributed.capacity import LIMITS
from dynat_ray.distributed.ray_trainer import resolve_workers
from dynat_ray.settings import build_config, read_recipe, recipe_names

CLUSTER = Path(__file__).parents[2] / "cluster"


def limits_in_kuberay() -> str:
    job = yaml.safe_load((CLUSTER / "kuberay" / "base" / "rayjob.yaml").read_text())
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {each["name"]: str(each["value"]) for each in head["env"]}[LIMITS]


def limits_on_aws() -> str:
    content: dict[str, Any] = yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())
    start = f"--env {LIMITS}="
    (option,) = [x for x in content["docker"]["run_options"] if x.startswith(start)]
    return str(option.removeprefix(start))


@pytest.mark.parametrize("limits", [limits_in_kuberay(), limits_on_aws()], ids=["kuberay", "aws"])
@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_has_room(recipe: str, limits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head alone is there, and nobody trains on it."""
    monkeypatch.setenv(LIMITS, limits)
    monkeypatch.setattr(capacity, "connect", lambda: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"memory": 16e9}}])
    config = build_config([read_recipe(recipe)])
    workers = resolve_workers(config.cluster)
    assert workers.gpu is (config.cluster.gpu == "auto")
    assert config.smallest_share(workers.most) > 0
