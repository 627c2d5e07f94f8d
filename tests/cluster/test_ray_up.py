"""The files for `ray up`, against Ray's own schema and its own preparation of a cluster."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import ray
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import _create_default_ssh_inbound_rules
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config

from dynat_ray.distributed.capacity import LIMITS, NodeKind, parse_limits

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
    assert content["file_mounts"]["/home/ray/.token/auth_token"] == "~/.ray/auth_token"
    # It is the ssh user's, whose number may be any.
    (install,) = [line for line in content["setup_commands"] if "auth_token" in line]
    assert 'sudo install -o "$(id -u)" -m 600 /home/ray/.token/auth_token ' in install
    assert install.endswith(" /home/ray/.ray/auth_token")
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


def limits(name: str) -> str:
    start = f"--env {LIMITS}="
    (line,) = [x for x in read(name)["docker"]["run_options"] if x.startswith(start)]
    return str(line.removeprefix(start))


def test_what_may_come_is_named() -> None:
    types = read("aws.yaml")["available_node_types"]
    assert parse_limits(limits("aws.yaml")) == [NodeKind(types["gpu"]["max_workers"], 8, 1)]
    workers = read("local.yaml")["provider"]["worker_ips"]
    filled = limits("local.yaml").replace("CORES", "32").replace("GPUS", "4")
    assert parse_limits(filled) == [NodeKind(len(workers), 32, 4)]


@pytest.mark.parametrize("name", NAMES)
def test_no_worker_trains_on_the_head(name: str) -> None:
    start = read(name)["head_start_ray_commands"][-1]
    assert "--num-cpus=0" in start


def test_aws_spot_nodes_read_the_notice_and_runs_are_not_walked_through_at_boot() -> None:
    content = read("aws.yaml")
    assert content["file_mounts"]["/home/ray/spot_watch.sh"] == "cluster/ray-up/spot_watch.sh"
    assert "/home/ray/spot_watch.sh" in content["worker_start_ray_commands"][-1]
    assert not [line for line in content["initialization_commands"] if "chown -R" in line]
    assert "," not in content["provider"]["availability_zone"]


def node_configs() -> list[dict[str, Any]]:
    types = read("aws.yaml")["available_node_types"]
    return [each["node_config"] for each in types.values()]


def test_aws_nodes_are_in_a_group_of_their_own_that_ray_does_not_fill() -> None:
    content = read("aws.yaml")
    assert "security_group" not in content["provider"]
    assert [each["SecurityGroupIds"] for each in node_configs()] == [["SECURITY_GROUP"]] * 2
    # Ray adds these to any group that it makes, or that has no rules.
    rules = _create_default_ssh_inbound_rules()
    assert rules[0]["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}], "then its own groups may be used"
    readme = (FOLDER.parent / "README.md").read_text()
    assert "0.0.0.0" not in readme
    assert "--port 22 --cidr $(curl -s https://checkip.amazonaws.com)/32" in readme


def test_aws_credentials_of_a_node_need_a_token() -> None:
    for each in node_configs():
        assert each["MetadataOptions"]["HttpTokens"] == "required"
        assert each["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert all(disk["Ebs"]["Encrypted"] for disk in each["BlockDeviceMappings"])


def statements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())["Statement"]
    return found


@pytest.mark.parametrize("name", ["head-policy.json", "storage-policy.json"])
def test_aws_roles_may_do_little(name: str) -> None:
    for each in statements(name):
        actions = [each["Action"]] if isinstance(each["Action"], str) else each["Action"]
        assert not [action for action in actions if "*" in action]
        if each["Resource"] == "*":
            assert all(action.startswith("ec2:Describe") for action in actions)
        if {"ec2:CreateTags", "ec2:TerminateInstances", "iam:PassRole"} & set(actions):
            assert each["Condition"]


def test_aws_roles_are_the_clusters() -> None:
    content = read("aws.yaml")
    head, worker = (each["IamInstanceProfile"]["Name"] for each in node_configs())
    assert (head, worker) == ("dynat-ray-head", "dynat-ray-worker")
    by_name = {each["Sid"]: each for each in statements("head-policy.json")}
    passed = by_name["GiveThemTheirRole"]["Resource"]
    assert passed == f"arn:aws:iam::ACCOUNT:role/{worker}"
    start = by_name["StartWorkersOfThisClusterOnly"]["Condition"]["StringEquals"]
    assert start["aws:RequestTag/ray-cluster-name"] == content["cluster_name"]
    workers = content["available_node_types"]["gpu"]["node_config"]
    assert start["ec2:InstanceType"] == workers["InstanceType"]
    assert start["ec2:MetadataHttpTokens"] == workers["MetadataOptions"]["HttpTokens"]
    end = by_name["NameAndEndThemLater"]["Condition"]["StringEquals"]
    assert end["aws:ResourceTag/ray-cluster-name"] == content["cluster_name"]
    region = content["provider"]["region"]
    resources = json.dumps(statements("head-policy.json"))
    assert set(re.findall(r"arn:aws:ec2:([^:]*):", resources)) == {region}


def test_aws_workers_are_on_spot_and_as_many_as_needed() -> None:
    content = read("aws.yaml")
    types = content["available_node_types"]
    workers = types["gpu"]
    assert workers["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert workers["min_workers"] < workers["max_workers"] <= content["max_workers"]
    assert types[content["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}


def test_aws_sees_the_roles_of_head_and_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself gives a role to the head alone; runs on `s3://` are written by workers."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    content = read("aws.yaml")
    region = content["provider"]["region"]
    with mock_aws():
        iam, ec2 = boto3.client("iam"), boto3.client("ec2", region_name=region)
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        # Any will do: of more than a thousand these are few.
        few = {"Name": "virtualization-type", "Values": ["paravirtual"]}
        image = ec2.describe_images(Filters=[few])["Images"][0]["ImageId"]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        provider = AWSNodeProvider(content["provider"], content["cluster_name"])
        for name, kind in content["available_node_types"].items():
            profile = kind["node_config"]["IamInstanceProfile"]["Name"]
            iam.create_instance_profile(InstanceProfileName=profile)
            filled = {"ImageId": image, "SecurityGroupIds": [group], "SubnetIds": [subnet]}
            provider.create_node(kind["node_config"] | filled, {"ray-user-node-type": name}, 1)
        found = [each for r in ec2.describe_instances()["Reservations"] for each in r["Instances"]]
    roles = {each["IamInstanceProfile"]["Arn"].rpartition("/")[2] for each in found}
    assert roles == {"dynat-ray-head", "dynat-ray-worker"}
