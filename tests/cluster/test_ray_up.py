"""The files for `ray up`, against Ray's own schema and its own preparation of a cluster."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).parents[2] / "cluster" / "ray-up"
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
NAMES = ["aws.yaml", "local.yaml"]


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


@pytest.mark.parametrize("name", NAMES)
def test_ray_takes_it(name: str) -> None:
    content = read(name)
    jsonschema.validate(content, SCHEMA)
    # It fills in what is missing, and drops some of what it does not know: after the schema.
    prepared = prepare_config(copy.deepcopy(content))
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_refuses_a_misspelt_key(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="min_workers"):
        jsonschema.validate(read(name) | {"min_workers": 1}, SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_gets_in_without_the_token(name: str) -> None:
    content = read(name)
    assert "/home/ray/.ray/auth_token" in content["file_mounts"]
    starts = [
        line
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in content[key]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ray start ") for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--env RAY_AUTH_MODE=token" in content["docker"]["run_options"]


@pytest.mark.parametrize("name", NAMES)
def test_runs_go_to_the_shared_folder(name: str) -> None:
    options = read(name)["docker"]["run_options"]
    assert "-v /shared:/shared" in options
    assert "--env DYNAT_RAY_OUT=/shared/runs" in options
    assert any(option.startswith("--shm-size=") for option in options)


def test_aws_workers_are_on_spot_and_as_many_as_needed() -> None:
    content = read("aws.yaml")
    types = content["available_node_types"]
    workers = types["gpu"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert workers["min_workers"] < workers["max_workers"] <= content["max_workers"]
    assert types[content["head_node_type"]]["resources"]["GPU"] == 0
