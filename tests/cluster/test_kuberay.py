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
    contents = list(yaml.safe_load_all(file.read_text()))
    assert contents
    assert [problems(content) for content in contents] == [[]] * len(contents)


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
    pod = (*workers, 0, "template", "spec")
    assert "is unknown" in broken(*pod, "securityContext", "runAsNonroot", value=True)[0]
    assert "must be of type bool" in broken(*pod, "automountServiceAccountToken", value="no")[0]
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


def pods_of(name: str) -> dict[str, dict[str, Any]]:
    """All templates of pods, by what they are for."""
    specification, cluster = read(name)["spec"], cluster_of(name)
    pods = {"head": cluster["headGroupSpec"]["template"]}
    for group in cluster["workerGroupSpecs"]:
        pods[group["groupName"]] = group["template"]
    if "submitterPodTemplate" in specification:
        pods["submitter"] = specification["submitterPodTemplate"]
    return pods


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_pods_have_no_rights_that_they_do_not_need(name: str) -> None:
    pods = pods_of(name)
    assert set(pods) - {"submitter"} == {"head", "gpu"}
    containers = [has_least_rights(cluster_of(name)["autoscalerOptions"])]
    for purpose, template in pods.items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.get("automountServiceAccountToken", True) is (purpose == "head")
        containers += [has_least_rights(each) for each in pod["containers"]]
    assert containers == [True] * len(containers)


def has_least_rights(container: dict[str, Any]) -> bool:
    context = container["securityContext"]
    return bool(context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}})


def test_a_jobs_pods_are_all_described() -> None:
    """One that KubeRay describes itself would have more rights."""
    assert "submitter" in pods_of("rayjob.yaml")


def test_only_who_needs_it_reaches_the_pods() -> None:
    policies = list(yaml.safe_load_all((FOLDER / "network.yaml").read_text()))
    rules = {each["spec"]["podSelector"]["matchLabels"]["dynat-ray"]: each for each in policies}
    for name in ("rayjob.yaml", "raycluster.yaml"):
        for purpose, template in pods_of(name).items():
            label = "submitter" if purpose == "submitter" else "node"
            assert template["metadata"]["labels"] == {"dynat-ray": label}
            assert label in rules
    for each in policies:
        assert each["spec"]["policyTypes"] == ["Ingress"]
    assert rules["submitter"]["spec"]["ingress"] == []
    own, others = rules["node"]["spec"]["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": {"dynat-ray": "node"}}}]}
    assert [each["port"] for each in others["ports"]] == [8265]
    # An empty selector would be everybody.
    assert all(each["podSelector"]["matchLabels"] for each in others["from"])


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
