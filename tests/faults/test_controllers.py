"""Ray Train's controller, killed as by the kernel when memory is short, costs a restart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dynat_ray.storage.metrics import read_metrics
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


@pytest.fixture(params=["alone", "beside another Ray"])
def _another_ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ray Train's own help asks Ray whether the controller lives: which Ray, if there are two?"""
    if request.param == "alone":
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", _RAY], env=_own(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        yield
        process.communicate()


@pytest.mark.usefixtures("_another_ray")
@pytest.mark.parametrize("restarts", [3, 0])
def test_whoever_comes_next_gets_its_workers_places(tmp_path: Path, restarts: int) -> None:
    options = f"{COMPARE} --cluster.max_failures {restarts} --out {tmp_path}"
    command = [sys.executable, "-m", "dynat_ray.compare", *options.split()]
    process = subprocess.Popen(command, cwd=ROOT, env=_own(), stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "killed" / "runs"
    try:
        wait_until(lambda: read_metrics(runs / "pgd_at-seed0" / "metrics.jsonl"), "an epoch")
        for each in psutil.Process(process.pid).children(recursive=True):
            if "TrainController" in " ".join(each.cmdline()):
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
