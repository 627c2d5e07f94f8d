"""The files for KubeRay: known fields only, and what a run on spot GPU nodes needs."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import ray
import yaml

from dynat_ray.config import RunConfig
from dynat_ray.distributed.capacity import LIMITS, NodeKind, parse_limits
from dynat_ray.distributed.run_gauges import GAUGES
from dynat_ray.settings import build_config, read_recipe, split_arguments
from tests.cluster.kubernetes_fields import problems

FOLDER = Path(__file__).parents[2] / "cluster" / "kuberay"
OVERLAYS = sorted(folder.name for folder in (FOLDER / "overlays").iterdir())
FILES = sorted(file for file in FOLDER.rglob("*.yaml") if file.name != "kustomization.yaml")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path_of(name).read_text())
    return content


def path_of(name: str) -> Path:
    (found,) = FOLDER.rglob(name)
    return found


def built(folder: Path) -> dict[str, dict[str, Any]]:
    """What `kubectl kustomize` would make of a folder, by kind (and name, if there are several)."""
    content = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects: dict[str, dict[str, Any]] = {}
    for name in content["resources"]:
        place = folder / name
        if place.is_dir():
            objects |= built(place)
        else:
            for each in yaml.safe_load_all(place.read_text()):
                objects[f"{each['kind']} {each['metadata']['name']}"] = each
    for patch in content.get("patches", []):
        target = patch["target"]["kind"]
        (name,) = [name for name in objects if name.startswith(f"{target} ")]
        objects[name] = jsonpatch.apply_patch(objects[name], yaml.safe_load(patch["patch"]))
    return objects


def job_of(overlay: str) -> dict[str, Any]:
    job: dict[str, Any] = built(FOLDER / "overlays" / overlay)["RayJob dynat-ray-train"]
    return job


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
    assert "nodeSelector" not in workers["template"]["spec"]  # It is the overlays' to choose.
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
    assert last_words.count('"$DRAIN_SECONDS"') == 2
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    annotations = cluster["headGroupSpec"]["template"]["metadata"]["annotations"]
    assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_the_head_knows_what_the_workers_can_grow_to(name: str) -> None:
    cluster = cluster_of(name)
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (workers,) = cluster["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert parse_limits(variables(head)[LIMITS]) == [
        NodeKind(workers["maxReplicas"], int(limits["cpu"]), int(limits["nvidia.com/gpu"]))
    ]


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_every_pod_says_what_disk_it_needs_and_the_head_that_it_may_write(name: str) -> None:
    pods = pods_of(name)
    for purpose in ("head", "gpu"):
        (container,) = pods[purpose]["spec"]["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["requests"]["ephemeral-storage"]
    (check,) = pods["head"]["spec"]["initContainers"]
    assert has_least_rights(check)
    shell = check["command"][-1].replace("/shared", "/dev/null/shared")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("error: user 1000 may not write to ")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_whole(overlay: str) -> None:
    assert OVERLAYS == ["aks", "eks-karpenter", "gke", "kueue", "on-prem"]
    objects = built(FOLDER / "overlays" / overlay)
    assert [problems(each) for each in objects.values()] == [[]] * len(objects)
    pod = job_of(overlay)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    seconds = int(variables(pod["containers"][0])["DRAIN_SECONDS"])
    assert 0 < seconds < pod["terminationGracePeriodSeconds"]
    classes = {each["metadata"]["name"] for name, each in objects.items() if "StorageClass" in name}
    claim = objects["PersistentVolumeClaim dynat-ray-shared"]["spec"]
    assert {claim["storageClassName"]} >= classes if classes else True


def test_nodes_are_chosen_by_what_is_known_before_they_boot() -> None:
    """An autoscaler starts no node for a label that only a running node gets."""
    chosen = {}
    for overlay in OVERLAYS:
        (workers,) = job_of(overlay)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        chosen[overlay] = workers["template"]["spec"].get("nodeSelector", {})
    assert chosen == {
        "aks": {},
        "eks-karpenter": {"karpenter.sh/nodepool": "dynat-ray-gpu"},
        "gke": {"cloud.google.com/gke-spot": "true"},
        "kueue": {},
        "on-prem": {},
    }
    pool = built(FOLDER / "overlays" / "eks-karpenter")["NodePool dynat-ray-gpu"]
    taints = {
        "aks": {"kubernetes.azure.com/scalesetpriority"},
        "eks-karpenter": {each["key"] for each in pool["spec"]["template"]["spec"]["taints"]},
        "gke": {"cloud.google.com/gke-spot"},
    }
    for overlay, keys in taints.items():
        (workers,) = job_of(overlay)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        tolerated = workers["template"]["spec"]["tolerations"]
        assert keys | {"nvidia.com/gpu"} == {each["key"] for each in tolerated}


def test_kueue_admits_a_job_of_a_fixed_size() -> None:
    job = job_of("kueue")
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "QUEUE"}
    assert job["spec"]["shutdownAfterJobFinishes"]
    cluster = job["spec"]["rayClusterSpec"]
    assert "enableInTreeAutoscaling" not in cluster
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]
    assert run_of(job).cluster.worker_range() == (workers["replicas"],) * 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_job_that_fails_for_good_ends(overlay: str) -> None:
    job = job_of(overlay)
    # KubeRay would repeat a user's mistake too.
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] > 0
    assert (job["spec"]["shutdownAfterJobFinishes"], job["spec"]["ttlSecondsAfterFinished"]) == (
        True,
        0,
    )
    limits = run_of(job).cluster
    assert limits.max_failures >= 1
    assert limits.max_preemption_failures == -1


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
    policies = list(yaml.safe_load_all(path_of("network.yaml").read_text()))
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


def run_of(job: dict[str, Any]) -> RunConfig:
    """The settings of a job's command."""
    program, module, name, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, module, name) == ("python", "-m", "dynat_ray.train")
    overrides, rest = split_arguments(arguments)
    assert "--resume" in rest
    return build_config([read_recipe(rest[rest.index("--recipe") + 1]), overrides])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_jobs_workers_fit_the_pods(overlay: str) -> None:
    job = job_of(overlay)
    config = run_of(job)
    low, high = config.cluster.worker_range() or (0, 0)
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (low, high) == (workers["minReplicas"], workers["maxReplicas"])
    cores = workers["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert config.cluster.cpus_per_worker <= int(cores)


def test_grafana_shows_what_runs_report() -> None:
    folder = FOLDER / "components" / "monitoring"
    component = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (config,) = component["configMapGenerator"]
    assert config["options"]["labels"] == {"grafana_dashboard": "1"}
    (file,) = config["files"]
    text = (folder / file).read_text()
    dashboard = json.loads(text)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    places = {(each["gridPos"]["x"], each["gridPos"]["y"]) for each in dashboard["panels"]}
    assert len(places) == len(ids)
    assert set(re.findall(r"ray_dynat_ray_(\w+)", text)) == set(GAUGES)
    known = {panel["name"] for panel in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__all"} == known


def test_logs_are_read_beside_each_of_rays_containers() -> None:
    folder = FOLDER / "components" / "logs"
    component = yaml.safe_load((folder / "kustomization.yaml").read_text())
    (config,) = component["configMapGenerator"]
    assert all((folder / file).is_file() for file in config["files"])
    (patch,) = component["patches"]
    job = built(FOLDER / "base")["RayJob dynat-ray-train"]
    job = jsonpatch.apply_patch(job, yaml.safe_load(patch["patch"]))
    assert problems(job) == []
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        node, reader = pod["containers"]
        assert has_least_rights(reader)
        (logs,) = [each for each in node["volumeMounts"] if each["mountPath"] == "/tmp/ray"]
        assert reader["volumeMounts"][0] == {**logs, "readOnly": True}
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert volumes["logs-config"]["configMap"] == {"name": config["name"]}
        # KubeRay's own autoscaler writes into the volume of this name.
        assert logs["name"] == "ray-logs"
        assert "emptyDir" in volumes["ray-logs"]


def test_the_cluster_that_stays_is_the_jobs() -> None:
    job, stays = cluster_of("rayjob.yaml"), cluster_of("raycluster.yaml")
    for cluster in (job, stays):
        for key in ("replicas", "minReplicas"):
            cluster["workerGroupSpecs"][0].pop(key)
    assert job == stays
