"""What `cluster/` ships, on this machine: its commands, its last words of a pod, its Slurm script.

Processes, network and `/tmp` of a pod or node are its own (`unshare`), which root alone can have.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training.checkpoint import read_checkpoint
from tests.faults.cluster import Head
from tests.faults.jobs import ROOT, tell, wait_until

pytestmark = pytest.mark.faults

JOB = ROOT / "cluster" / "kuberay" / "base" / "rayjob.yaml"
PROGRAMS = Path(sys.executable).parent
OWN_PLACE = ["unshare", "--fork", "--pid", "--mount-proc"]
# The end of a job's time, as the script asks Slurm for it.
NOTICE_SECONDS = 300
can_unshare = pytest.mark.skipif(
    subprocess.run([*OWN_PLACE, "--net", "true"], capture_output=True, check=False).returncode != 0,
    reason="only root can give a process its own place",
)


def job() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(JOB.read_text())
    return content["spec"]


# A method that never works, in a package with an entry point.
BROKEN = """
from dynat_ray.methods import pgd_at, register_as

@register_as("broken")
class Broken(pgd_at.PGDAT):
    def loss(self, network, prepared):
        raise RuntimeError("this method never works")
"""
# What this machine has, in the place of what the file asks for.
HERE = {
    "--recipe": "digits",
    "--cluster.workers": "1..2",
    "--cluster.gpu": "false",
    "--cluster.cpus_per_worker": "1",
}


def test_a_worker_that_always_raises_ends_the_job(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "broken-1.dist-info").mkdir(parents=True)
    (site / "broken-1.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (site / "broken-1.dist-info" / "entry_points.txt").write_text(
        "[dynat_ray.plugins]\nbroken = broken_method\n"
    )
    (site / "broken_method.py").write_text(BROKEN)
    _, *words = shlex.split(job()["entrypoint"])
    for name, value in HERE.items():
        words[words.index(name) + 1] = value
    done = subprocess.run(
        [sys.executable, *words, "--method.name", "broken", "--out", str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{site}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    tell(done.stderr)
    assert done.returncode == 1
    notes = [line for line in done.stderr.splitlines() if "; restart " in line]
    assert [note.partition("; ")[2] for note in notes] == [
        f"restart {number} of at most 3, from the last checkpoint" for number in (1, 2, 3)
    ]
    assert all("this method never works" in note for note in notes)
    assert "this method never works" in done.stderr.rpartition("; restart ")[2]


POD = """
set -e
mount -t tmpfs none "$1"  # No file of the head's Ray is a pod's.
ray start --address "$RAY_ADDRESS" --node-ip-address 127.0.0.2 --num-cpus 1 \
    --object-store-memory 80000000 --dashboard-agent-listen-port 0 >&2
shift
"$@" >&2
python -c "$LOOK"
"""
# Prints of each node why it went, if it did; one that has nothing to do goes as soon as it is told.
LOOK = """
import os
from ray._raylet import GcsClient
for node in GcsClient(address=os.environ["RAY_ADDRESS"]).get_all_node_info().values():
    print(node.node_manager_address, node.death_info.Reason.Name(node.death_info.reason))
"""


@can_unshare
def test_the_last_words_of_a_pod_drain_its_own_node() -> None:
    (workers,) = job()["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    last_words = container["lifecycle"]["preStop"]["exec"]["command"]
    with Head(cpus=0) as head:
        done = subprocess.run(
            [*OWN_PLACE, "bash", "-c", POD, "pod", str(head.folder / "ray"), *last_words],
            env={
                **head.environment,
                # KubeRay gives pods the address.
                "RAY_ADDRESS": f"127.0.0.1:{head.port}",
                "DRAIN_SECONDS": "5",
                "LOOK": LOOK,
            },
            capture_output=True,
            text=True,
            check=False,
        )
    tell(done.stdout, done.stderr)
    assert done.returncode == 0
    ends = dict(line.split() for line in done.stdout.splitlines())
    assert ends.pop("127.0.0.2") == "AUTOSCALER_DRAIN_PREEMPTED"
    assert list(ends.values()) == ["UNSPECIFIED"]  # The head's.


# Slurm, on one machine.
SLURM = {
    "scontrol": 'case $1 in show) echo 127.0.0.1;; *) echo "$@" >>"$RECORD";; esac',
    "srun": 'while [ "$1" != bash ]; do shift; done; "$@"',
}
# Another user has left a file where Ray would have its folder. Programs of the environment know
# it by its path, which may lie in the /tmp that is covered.
NODE = """
mount --bind "$1" "$2/code"
mount --bind "$2/tmp" /tmp
mkdir -p "$1"
mount --bind "$2/code" "$1"
touch /tmp/ray
chown nobody /tmp/ray
ip link set lo up
exec bash "$2/code/cluster/slurm/train.sbatch" "${@:3}"
"""


@dataclass
class Node:
    """A Slurm node on which a job runs; its folder is what all nodes share.

    Attributes:
        folder: Outside of `/tmp`, which the node has of its own.
        job: The job, once it was submitted.
    """

    folder: Path
    job: subprocess.Popen[str] | None = None

    def submit(self, *arguments: str) -> None:
        """Runs the script that is shipped."""
        self.job = subprocess.Popen(
            [*OWN_PLACE, "--net", "bash", "-c", NODE, "node", ROOT, self.folder, *arguments],
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "PYTHONPATH": str(self.folder / "code"),
                "VENV": str(PROGRAMS.parent),
                "RECORD": str(self.folder / "record"),
                "SLURM_SUBMIT_DIR": str(self.folder),
                "SLURM_JOB_ID": "123456",
                "SLURM_JOB_NAME": "dynat-ray",
                "SLURM_JOB_NODELIST": "127.0.0.1",
                "SLURM_JOB_NUM_NODES": "1",
                "SLURM_CPUS_PER_TASK": "2",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def signal(self, number: int) -> None:
        """Sends a signal to the script, which takes the whole node with it when it ends."""
        if self.job is not None and self.job.poll() is None:
            for script in psutil.Process(self.job.pid).children():
                script.send_signal(number)


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(Path(tempfile.mkdtemp(dir="/var/tmp")))
    for name in ("code", "tmp"):
        (node.folder / name).mkdir()
    for name, body in SLURM.items():
        (node.folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (node.folder / name).chmod(0o755)
    yield node
    node.signal(signal.SIGKILL)
    if node.job is not None:
        node.job.wait()
    shutil.rmtree(node.folder)


@can_unshare
def test_a_slurm_job_whose_time_ends_saves_and_is_requeued(node: Node) -> None:
    arguments = "--recipe digits --train.epochs 1000 --attack.steps 1 --cluster.workers 1"
    node.submit(*arguments.split())
    assert node.job is not None
    job, run = node.job, node.folder / "runs" / "dynat-ray-123456"
    wait_until(lambda: read_metrics(run / "metrics.jsonl") or job.poll() is not None, "an epoch")
    node.signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=NOTICE_SECONDS)
    tell(output)
    assert job.returncode == 143
    assert "stopped: a checkpoint is written" in output
    assert (node.folder / "record").read_text() == "requeue 123456\n"
    newest = max((run / "checkpoints").glob("epoch_*_step_*"))
    assert read_checkpoint(newest) is not None
