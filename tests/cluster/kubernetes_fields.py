"""A strict reading of Kubernetes objects: every field must be known, of its type, and needed ones
present. The API server itself drops or refuses what it does not know, minutes after one has
waited for a GPU node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fields:
    """An object with these fields and no others."""

    known: dict[str, Any]
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """One of these words."""

    allowed: tuple[str, ...] = field(default_factory=tuple)


def words(*allowed: str) -> Words:
    return Words(allowed)


class Texts:
    """Free names to texts (labels, resources, start parameters)."""


METADATA = Fields({"name": str, "namespace": str, "labels": Texts, "annotations": Texts}, ("name",))
_KEY = Fields({"name": str, "key": str, "optional": bool}, ("name", "key"))
_SOURCE = Fields(
    {"secretKeyRef": _KEY, "fieldRef": Fields({"fieldPath": str}, ("fieldPath",))},
)
_VARIABLE = Fields({"name": str, "value": str, "valueFrom": _SOURCE}, ("name",))
_QUANTITIES = Fields({"requests": Texts, "limits": Texts})
_SECCOMP = Fields({"type": words("RuntimeDefault", "Localhost", "Unconfined")}, ("type",))
_CONTAINER_SECURITY = Fields(
    {
        "allowPrivilegeEscalation": bool,
        "capabilities": Fields({"drop": [str], "add": [str]}),
        "privileged": bool,
        "readOnlyRootFilesystem": bool,
        "runAsNonRoot": bool,
        "runAsUser": int,
        "seccompProfile": _SECCOMP,
    }
)
_CONTAINER = Fields(
    {
        "name": str,
        "image": str,
        "imagePullPolicy": words("Always", "IfNotPresent", "Never"),
        "command": [str],
        "args": [str],
        "env": [_VARIABLE],
        "ports": [Fields({"name": str, "containerPort": int}, ("containerPort",))],
        "resources": _QUANTITIES,
        "securityContext": _CONTAINER_SECURITY,
        "lifecycle": Fields({"preStop": Fields({"exec": Fields({"command": [str]})})}),
        "volumeMounts": [
            Fields({"name": str, "mountPath": str, "readOnly": bool}, ("name", "mountPath"))
        ],
    },
    ("name", "image"),
)
_VOLUME = Fields(
    {
        "name": str,
        "emptyDir": Fields({"medium": words("Memory"), "sizeLimit": str}),
        "persistentVolumeClaim": Fields({"claimName": str, "readOnly": bool}, ("claimName",)),
        "configMap": Fields({"name": str}, ("name",)),
    },
    ("name",),
)
_TOLERATION = Fields(
    {
        "key": str,
        "operator": words("Exists", "Equal"),
        "value": str,
        "effect": words("NoSchedule", "PreferNoSchedule", "NoExecute"),
    }
)
_POD = Fields(
    {
        "restartPolicy": words("Always", "OnFailure", "Never"),
        "terminationGracePeriodSeconds": int,
        "automountServiceAccountToken": bool,
        "securityContext": Fields(
            {
                "fsGroup": int,
                "runAsGroup": int,
                "runAsNonRoot": bool,
                "runAsUser": int,
                "seccompProfile": _SECCOMP,
            }
        ),
        "nodeSelector": Texts,
        "tolerations": [_TOLERATION],
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "volumes": [_VOLUME],
        "serviceAccountName": str,
    },
    ("containers",),
)
_TEMPLATE = Fields(
    {"metadata": Fields({"labels": Texts, "annotations": Texts}), "spec": _POD}, ("spec",)
)
_HEAD = Fields(
    {"rayStartParams": Texts, "serviceType": str, "labels": Texts, "template": _TEMPLATE},
    ("template",),
)
_WORKERS = Fields(
    {
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "numOfHosts": int,
        "idleTimeoutSeconds": int,
        "rayStartParams": Texts,
        "labels": Texts,
        "template": _TEMPLATE,
    },
    ("groupName", "minReplicas", "maxReplicas", "template"),
)
CLUSTER = Fields(
    {
        "rayVersion": str,
        "suspend": bool,
        "authOptions": Fields({"mode": words("token", "disabled"), "secretName": str}),
        "enableInTreeAutoscaling": bool,
        "autoscalerOptions": Fields(
            {
                "version": words("v1", "v2"),
                "upscalingMode": words("Default", "Aggressive", "Conservative"),
                "idleTimeoutSeconds": int,
                "image": str,
                "imagePullPolicy": str,
                "resources": _QUANTITIES,
                "securityContext": _CONTAINER_SECURITY,
            }
        ),
        "headGroupSpec": _HEAD,
        "workerGroupSpecs": [_WORKERS],
    },
    ("headGroupSpec",),
)
JOB = Fields(
    {
        "entrypoint": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "metadata": Texts,
        "backoffLimit": int,
        "activeDeadlineSeconds": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "submissionMode": words("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        "submitterPodTemplate": _TEMPLATE,
        "submitterConfig": Fields({"backoffLimit": int}),
        "suspend": bool,
        "clusterSelector": Texts,
        "rayClusterSpec": CLUSTER,
    },
    ("entrypoint",),
)
CLAIM = Fields(
    {
        "accessModes": [words("ReadWriteMany")],
        "storageClassName": str,
        "resources": _QUANTITIES,
    },
    ("accessModes", "resources"),
)
_SELECTOR = Fields({"matchLabels": Texts})
NETWORK = Fields(
    {
        "podSelector": _SELECTOR,
        "policyTypes": [words("Ingress", "Egress")],
        "ingress": [
            Fields(
                {
                    "from": [Fields({"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR})],
                    "ports": [Fields({"protocol": words("TCP", "UDP"), "port": int}, ("port",))],
                }
            )
        ],
    },
    ("podSelector",),
)
MONITOR = Fields(
    {
        "selector": _SELECTOR,
        "podMetricsEndpoints": [Fields({"port": str, "path": str, "interval": str}, ("port",))],
    },
    ("selector", "podMetricsEndpoints"),
)
POOL = Fields(
    {
        "template": Fields(
            {
                "spec": Fields(
                    {
                        "nodeClassRef": Fields({"group": str, "kind": str, "name": str}),
                        "requirements": [
                            Fields({"key": str, "operator": words("In"), "values": [str]})
                        ],
                        "taints": [Fields({"key": str, "effect": words("NoSchedule")})],
                    },
                    ("nodeClassRef", "requirements"),
                )
            }
        ),
        "limits": Texts,
        "disruption": Fields({"consolidationPolicy": words("WhenEmpty"), "consolidateAfter": str}),
    },
    ("template",),
)
STORAGE_CLASS = Fields(
    {
        "apiVersion": str,
        "kind": str,
        "metadata": METADATA,
        "provisioner": str,
        "parameters": Texts,
        "mountOptions": [str],
    },
    ("metadata", "provisioner"),
)
SPECIFICATIONS = {
    ("ray.io/v1", "RayJob"): JOB,
    ("ray.io/v1", "RayCluster"): CLUSTER,
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("networking.k8s.io/v1", "NetworkPolicy"): NETWORK,
    ("monitoring.coreos.com/v1", "PodMonitor"): MONITOR,
    ("karpenter.sh/v1", "NodePool"): POOL,
}


def problems(content: Any) -> list[str]:
    """Returns a sentence for everything wrong with a Kubernetes object; empty: nothing is."""
    kind = (content.get("apiVersion"), content.get("kind"))
    if kind == ("storage.k8s.io/v1", "StorageClass"):
        return _check(content, STORAGE_CLASS, kind[1])
    if kind not in SPECIFICATIONS:
        return [f"unknown kind {kind}"]
    whole = Fields(
        {"apiVersion": str, "kind": str, "metadata": METADATA, "spec": SPECIFICATIONS[kind]},
        ("metadata", "spec"),
    )
    return list(_check(content, whole, kind[1]))


def _check(value: Any, expected: Any, where: str) -> list[str]:
    found: list[str] = []
    if isinstance(expected, Fields):
        if not isinstance(value, dict):
            return [f"{where} must hold fields"]
        found += [f"{where}.{name} is unknown" for name in value if name not in expected.known]
        found += [f"{where}.{name} is missing" for name in expected.required if name not in value]
        for name in expected.known.keys() & value.keys():
            found += _check(value[name], expected.known[name], f"{where}.{name}")
    elif isinstance(expected, list):
        if not isinstance(value, list):
            return [f"{where} must be a list"]
        for number, each in enumerate(value):
            found += _check(each, expected[0], f"{where}[{number}]")
    elif isinstance(expected, Words):
        if value not in expected.allowed:
            found.append(f"{where} is {value!r}, not one of {', '.join(expected.allowed)}")
    elif expected is Texts:
        if not isinstance(value, dict):
            return [f"{where} must hold fields"]
        found += [f"{where}.{k} must be a text" for k, v in value.items() if type(v) is not str]
    elif type(value) is not expected:
        found.append(f"{where} must be of type {expected.__name__}")
    return found
