"""What fits on the cluster: on the nodes that are there, and on those that it may start.

Ray tells what is there and, where it starts nodes itself, not what may come. So whoever sets up
such a cluster names it in `DYNAT_RAY_CLUSTER_LIMITS`, as every file in `cluster/` does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from dynat_ray.distributed.cluster import connect

# isort: split
import ray

from dynat_ray.distributed.ray_internals import HEAD_NODE, starts_nodes
from dynat_ray.errors import UserError

LIMITS = "DYNAT_RAY_CLUSTER_LIMITS"
# What runs were seen to take of the head's memory, in processes that nobody shares with them: Ray
# Train's controller and its helpers 0.6 GB, a run's own process the rest.
TRIAL_BYTES = 800_000_000
RUN_BYTES = 1_200_000_000
"""Its own process evaluates, so that it has PyTorch; a trial's has not."""
# The command, and Ray itself.
_BYTES_OF_OTHERS = 1_500_000_000
HEAD_TASKS_SHARE = 0.1
"""Of the head's memory, for what `dynat_ray.distributed.head_tasks` does there."""
_VALIDATES = " (one of them to validate: eval.beside)"
_KIND = re.compile(r"(\d+)x(?:CPU=(\d+))(?:,GPU=(\d+))?")


@dataclass(frozen=True)
class NodeKind:
    """So many nodes that have the same.

    Attributes:
        number: Nodes.
        cpus: CPU cores of each, as Ray counts them.
        gpus: GPUs of each.
    """

    number: int
    cpus: int
    gpus: int

    def places(self, cpus_per_worker: int, gpu: bool) -> int:
        """Returns how many workers they hold; one can't be spread over nodes."""
        each = self.cpus // cpus_per_worker
        return self.number * (min(each, self.gpus) if gpu else each)


def parse_limits(text: str) -> list[NodeKind]:
    """Reads what a cluster may grow to, such as `8xCPU=6,GPU=1+2xCPU=16`.

    Args:
        text: Kinds of nodes, the head's among them only if workers may run there; empty: the
            cluster does not grow.

    Raises:
        UserError: It is written otherwise.
    """
    found = [_KIND.fullmatch(part.strip()) for part in text.split("+")] if text.strip() else []
    if None in found:
        raise UserError(
            f"{LIMITS} is {text!r}; it must name nodes, CPUs and GPUs of each kind of node, as in "
            "8xCPU=6,GPU=1+2xCPU=16"
        )
    return [NodeKind(*(int(number or 0) for number in each.groups())) for each in found if each]


def cluster_total(kind: str) -> float:
    """Returns how much of a resource (`CPU`, `GPU`) all nodes that are there have."""
    connect()
    return float(ray.cluster_resources().get(kind, 0))


def present_nodes() -> list[NodeKind]:
    """Returns the nodes that are there."""
    connect()
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [NodeKind(1, int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in resources]


def cluster_limit(kind: str) -> float:
    """Returns how much of a resource all nodes have, or can have once those to come are there."""
    to_come = parse_limits(os.environ.get(LIMITS, ""))
    each = [(node.number, node.cpus if kind == "CPU" else node.gpus) for node in to_come]
    return max(cluster_total(kind), sum(number * amount for number, amount in each))


def places(cpus_per_worker: int, gpu: bool) -> int:
    """Returns how many workers fit on the cluster, or on what it may grow to.

    Args:
        cpus_per_worker: CPU cores each.
        gpu: A GPU each.
    """
    here, to_come = present_nodes(), parse_limits(os.environ.get(LIMITS, ""))
    counts = [sum(kind.places(cpus_per_worker, gpu) for kind in kinds) for kinds in (here, to_come)]
    return max(counts)


def has_gpus() -> bool:
    """Returns whether some node has a GPU, or may come with one.

    Raises:
        UserError: The cluster starts nodes, none of those that are there has a GPU, and nobody has
            said what may come.
    """
    if places(1, gpu=True):
        return True
    if grows_unknown():
        raise UserError(
            "no node of this cluster has a GPU yet, and it starts nodes that nobody has named: set "
            f"{LIMITS} on its head, as in 8xCPU=6,GPU=1, or say cluster.gpu: true or false"
        )
    return False


def grows_unknown() -> bool:
    """Returns whether Ray starts nodes itself and nobody has said which."""
    connect()
    return not os.environ.get(LIMITS, "").strip() and starts_nodes()


def may_grow() -> bool:
    """Returns whether nodes may come that are not there."""
    connect()
    return bool(os.environ.get(LIMITS, "").strip()) or starts_nodes()


def require_places(
    workers: int, cpus_per_worker: int, gpu: bool, *, one_validates: bool = False
) -> None:
    """Raises `UserError` if the cluster can never run so many workers.

    Args:
        workers: Side by side.
        cpus_per_worker: CPU cores each.
        gpu: A GPU each.
        one_validates: One of them does not train, as `eval.beside` wants it.
    """
    there = places(cpus_per_worker, gpu)
    if workers <= there or grows_unknown():
        return
    what = f"{cpus_per_worker} CPU{'s' * (cpus_per_worker > 1)}" + " and a GPU" * gpu
    raise UserError(
        f"{workers} workers with {what} each were asked for{_VALIDATES * one_validates}, but the "
        f"nodes of this cluster have room for {there} (a worker can't be spread over several): set "
        "cluster.workers, cluster.cpus_per_worker or cluster.gpu otherwise; what nodes may come is "
        f"said in {LIMITS} on its head"
    )


def side_by_side(
    workers: int, cpus_per_worker: int, gpu: bool, head_bytes: int = TRIAL_BYTES
) -> int:
    """Returns how many runs fit on the cluster at once, or on what it may grow to.

    Each has a group of workers, and processes of its own on the head.

    Args:
        workers: Of one group.
        cpus_per_worker: CPU cores each.
        gpu: A GPU each.
        head_bytes: Of the head's memory, for each run.
    """
    groups = places(cpus_per_worker, gpu) // workers
    free = (1 - HEAD_TASKS_SHARE) * head_memory() - _BYTES_OF_OTHERS
    on_head = max(1, int(free // head_bytes))
    return min(max(groups, 1) if grows_unknown() else groups, on_head)


def head_memory() -> float:
    """Returns how many bytes of memory Ray says that the head has."""
    heads = [node["Resources"] for node in ray.nodes() if HEAD_NODE in node["Resources"]]
    return float(heads[0].get("memory", 0)) if heads else 0.0
