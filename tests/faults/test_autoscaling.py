"""A cluster that starts GPU nodes as they are asked for; the GPUs are in Ray's books alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dynat_ray.distributed.capacity import LIMITS
from tests.faults.cluster import Head
from tests.faults.jobs import ROOT, tell

pytestmark = pytest.mark.faults

KINDS = {
    "gpu": {
        "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80_000_000},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    }
}
# What the four commands do with a cluster, in their order: count, wait, run.
PROGRAM = """
import os
import torch
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.cluster_config import ClusterConfig
from dynat_ray.distributed import waiting_for_nodes
from dynat_ray.distributed.capacity import LIMITS, places, side_by_side
from dynat_ray.distributed.cluster import living_nodes
from dynat_ray.distributed.evaluator import default_workers
from dynat_ray.distributed.ray_trainer import resolve_workers
from dynat_ray.errors import UserError
from dynat_ray.evaluation.plan import plan_shards
from dynat_ray.perturb.threat import Threat

waiting_for_nodes._SECONDS_WITHOUT_WORDS = 0.0
limits = os.environ.pop(LIMITS)
try:
    resolve_workers(ClusterConfig())
except UserError as error:
    print("unnamed:", error)
os.environ[LIMITS] = limits
print("nodes", len(living_nodes()))
print("train", *resolve_workers(ClusterConfig()))
try:
    resolve_workers(ClusterConfig(workers=3))
except UserError as error:
    print("too many:", error)
print("tune, compare", side_by_side(1, 1, gpu=True))
who = default_workers()
print("evaluate", who.count, who.on_ray)
shards = plan_shards(8, get_attacks(["clean"]), [Threat("Linf", 0.02)], batch_size=4)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
images, labels = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)
with who.ready() as run:
    print("shards", len(list(run(model, images, labels, shards, seed=0))))
waiting_for_nodes.wait_for_nodes(2, 1, True, minutes=5)
print("nodes", len(living_nodes()), "places", places(1, gpu=True))
try:
    waiting_for_nodes.wait_for_nodes(3, 1, True, minutes=0.05)
except UserError as error:
    print("in vain:", error)
"""


def test_commands_count_nodes_that_may_come_and_wait_for_them() -> None:
    with Head(cpus=0, environment={LIMITS: "2xCPU=1,GPU=1"}, workers=KINDS) as head:
        environment = head.environment | {"RAY_ADDRESS": f"127.0.0.1:{head.port}"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    tell(done.stdout)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"starts nodes that nobody has named: set {LIMITS}" in lines[0]
    assert lines[1:3] == ["nodes 1", "train 2 2 True"]
    assert "have room for 2 " in lines[3]
    assert lines[4:6] == ["tune, compare 2", "evaluate 2 True"]
    rest = lines[6:]
    assert any("for nodes with room for 1 GPU worker of 1 CPU, at most 30" in line for line in rest)
    assert "shards 2" in rest
    assert "nodes 3 places 2" in rest
    assert "waited 0.05 minutes (cluster.start_minutes) for nodes with room for 3" in rest[-1]
