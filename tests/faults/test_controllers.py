"""Ray Train's controller, killed as by the kernel when memory is short, costs a restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from dynat_ray.storage.metrics import read_metrics
from tests.faults.cluster import Head
from tests.faults.jobs import ROOT, wait_until

pytestmark = pytest.mark.faults
_PATIENCE = 240
# Each run takes both workers that there are: the second waits for what the first has held.
COMPARE = (
    "--recipe digits --methods pgd_at,trades --train.epochs 6 --data.limit 400 "
    f"--cluster.workers {os.cpu_count()} --eval.samples 20 --eval.attacks [clean] --name killed"
)

_RAY = (
    "import sys\n"
    "from dynat_ray.distributed.cluster import connect\n"
    "connect()\n"
    "print('started', flush=True)\n"
    "sys.stdin.read()\n"
)


def _own() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


@contextmanager
def _another_ray() -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", _RAY], env=_own(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        yield
        process.communicate()


class Place(NamedTuple):
    """Where a command runs.

    Attributes:
        environment: Its variables.
        head: The cluster that it is sent to; None: it starts its own.
    """

    environment: dict[str, str]
    head: Head | None

    def processes(self, command: subprocess.Popen[str]) -> list[psutil.Process]:
        """Returns those of its Ray."""
        if self.head is not None:
            return self.head.processes()
        return psutil.Process(command.pid).children(recursive=True)


@pytest.fixture(params=["alone", "beside another Ray", "on a cluster beside another Ray"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Ray Train's own help asks Ray whether the controller lives: which Ray, if there are two?"""
    with ExitStack() as stack:
        found = Place(_own(), None)
        if "cluster" in request.param:
            head = stack.enter_context(Head(cpus=os.cpu_count() or 1))
            found = Place({**head.environment, "RAY_ADDRESS": f"127.0.0.1:{head.port}"}, head)
        if "another" in request.param:
            stack.enter_context(_another_ray())
        yield found


@pytest.mark.parametrize("restarts", [3, 0])
def test_whoever_comes_next_gets_its_workers_places(
    tmp_path: Path, place: Place, restarts: int
) -> None:
    options = f"{COMPARE} --cluster.max_failures {restarts} --out {tmp_path}"
    command = [sys.executable, "-m", "dynat_ray.compare", *options.split()]
    process = subprocess.Popen(
        command, cwd=ROOT, env=place.environment, stderr=subprocess.PIPE, text=True
    )
    runs = tmp_path / "killed" / "runs"
    try:
        wait_until(lambda: read_metrics(runs / "pgd_at-seed0" / "metrics.jsonl"), "an epoch")
        controllers = [
            each
            for each in place.processes(process)
            if "TrainController" in " ".join(each.cmdline())
        ]
        assert controllers
        for each in controllers:
            each.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=_PATIENCE)
    finally:
        process.terminate()
    words = "the process that led the training died, perhaps for want of memory"
    if restarts:
        assert process.returncode == 0, errors
        lines = [line["epoch"] for line in read_metrics(runs / "pgd_at-seed0" / "metrics.jsonl")]
        assert lines == list(range(6))
    else:
        assert process.returncode == 2
        assert f"1 of 2 runs failed: pgd_at, seed 0: {words}" in errors
    assert (runs / "trades-seed0" / "results.json").exists()
