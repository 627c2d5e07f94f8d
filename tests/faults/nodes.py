"""Emulated clusters of several nodes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster

from dynat_ray.distributed.ray_internals import stay_on_loopback
from tests.faults.cluster import free_port

# Workers that Ray asks for on a node that has just gone would else be waited for a minute.
_SHORTER = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


@contextmanager
def two_nodes() -> Iterator[tuple[Cluster, Any]]:
    """Gives a cluster of a head and one more node, a CPU each, and that other node."""
    stay_on_loopback()
    before = {name: os.environ.get(name) for name in _SHORTER}
    os.environ.update(_SHORTER)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": True,
            "dashboard_port": free_port(),
            "dashboard_agent_listen_port": free_port(),
        },
    )
    try:
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, other
    finally:
        ray.shutdown()
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
