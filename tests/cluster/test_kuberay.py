"""The files for KubeRay: known fields only, and what a run on spot GPU nodes needs."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from dynat_ray.settings import build_config, read_recipe, split_arguments
from tests.cluster.kubernetes_fields import problems

FOLDER = Path(__file__).parents[2] / "cluster" / "kuberay"
FILES = sorted(FOLDER.glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


def cluster_of(name: str) -> dict[str, Any]:
    specification = read(name)["spec"]
    cluster: dict[str, Any] = specification.get("rayClusterSpec", specification)
    return cluster


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_all_fields_are_known(file: Path) -> None:
    assert problems(yaml.safe_load(file.read_text())) == []


def test_the_check_finds_what_is_wrong() -> None:
    good = read("rayjob.yaml")
    assert problems(good) == []

    def broken(*path: Any, value: Any) -> list[str]:
        content = copy.deepcopy(good)
        place: Any = content["spec"]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return problems(content)

    cluster = "rayClusterSpec"
    assert broken("entryPoint", value="x") == ["RayJob.spec.entryPoint is unknown"]
    assert "must be of type int" in broken("backoffLimit", value="3")[0]
    assert "not one of" in broken(cluster, "authOptions", "mode", value="Token")[0]
    assert "must be a text" in broken(cluster, "headGroupSpec", "rayStartParams", "x", value=0)[0]
    workers = (cluster, "workerGroupSpecs")
    assert (
        "is unknown" in broken(*workers, 0, "template", "spec", "tolerations", 0, "k", value=1)[0]
    )
    assert "must be a list" in broken(*workers, value={})[0]
    del good["spec"][cluster]["workerGroupSpecs"][0]["groupName"]
    assert problems(good) == ["RayJob.spec.rayClusterSpec.workerGroupSpecs[0].groupName is missing"]


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_a_cluster_has_what_a_run_needs(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["rayVersion"] == ray.__version__
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] < workers["maxReplicas"]
    taints = {each["key"] for each in workers["template"]["spec"]["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= taints
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        claim = volumes[mounts["/shared"]]["persistentVolumeClaim"]["claimName"]
        assert claim == read("storage.yaml")["metadata"]["name"]
        out = {each["name"]: each["value"] for each in container["env"]}["DYNAT_RAY_OUT"]
        assert out.startswith("/shared/")
    pod = workers["template"]["spec"]
    (last_words,) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2:]
    assert last_words.startswith("ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION ")
    assert int(last_words.split()[-1]) < pod["terminationGracePeriodSeconds"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


def test_the_jobs_command_is_one_of_ours() -> None:
    job = read("rayjob.yaml")["spec"]
    program, module, name, *arguments = shlex.split(job["entrypoint"])
    assert (program, module, name) == ("python", "-m", "dynat_ray.train")
    overrides, rest = split_arguments(arguments)
    assert "--resume" in rest
    recipe = rest[rest.index("--recipe") + 1]
    config = build_config([read_recipe(recipe), overrides])
    low, high = config.cluster.worker_range() or (0, 0)
    (workers,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert (low, high) == (workers["minReplicas"], workers["maxReplicas"])
    cores = workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert config.cluster.cpus_per_worker <= int(cores)


def test_the_cluster_that_stays_is_the_jobs() -> None:
    job, stays = cluster_of("rayjob.yaml"), cluster_of("raycluster.yaml")
    for cluster in (job, stays):
        for key in ("replicas", "minReplicas"):
            cluster["workerGroupSpecs"][0].pop(key)
    assert job == stays
