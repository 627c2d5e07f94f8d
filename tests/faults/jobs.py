"""Submitting our commands to a cluster of the test's own, and looking at what comes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from dynat_ray.models import load_model
from dynat_ray.storage.metrics import read_metrics
from tests.faults.cluster import Head

ROOT = Path(__file__).parents[2]
_PATIENCE = 240
# Lines of the log that are Ray's: its job manager writes them before our command runs.
_RAYS = ("Runtime env is setting up", "Running entrypoint for job")


def tell(*words: object) -> None:
    """Prints what happened; `make faults` shows it."""
    print(time.strftime("%H:%M:%S"), *words, flush=True)


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Waits until something holds, and fails if it does not in minutes."""
    for _ in range(5 * _PATIENCE):
        if holds():
            return
        time.sleep(0.2)
    raise AssertionError(f"waited in vain for {what}")


class Jobs:
    """Jobs on a head.

    Args:
        head: The cluster.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.runs = head.home / "dynat-ray-runs"

    def submit(self, command: str) -> str:
        """Submits `python -m dynat_ray.` and `command`; returns the job's id."""
        parts = ("--no-wait", "--working-dir", str(ROOT), "--", "python", "-m")
        done = self.head.ray("job", "submit", *parts, *f"dynat_ray.{command}".split())
        found = re.search(r"raysubmit_\w+", done.stdout)
        assert found, done.stderr
        tell("submitted:", command)
        return found[0]

    def status(self, job: str) -> str:
        """Returns how a job is."""
        return str(self.head.ask(f"/api/jobs/{job}")["status"])

    def wait(self, job: str) -> str:
        """Waits for a job's end; returns how it ended."""
        ends = ("SUCCEEDED", "FAILED", "STOPPED")
        wait_until(lambda: self.status(job) in ends, f"the end of {job}")
        return self.status(job)

    def log(self, job: str) -> list[str]:
        """Returns the lines that our command wrote."""
        lines = self.head.ask(f"/api/jobs/{job}/logs")["logs"].splitlines()
        return [line.rstrip() for line in lines if not any(words in line for words in _RAYS)]

    def succeed(self, command: str) -> list[str]:
        """Runs a job to its good end; returns its log."""
        job = self.submit(command)
        end, log = self.wait(job), self.log(job)
        assert end == "SUCCEEDED", "\n".join(log)
        return [line for line in log if line]

    def epochs(self, name: str) -> list[int]:
        """Returns the epochs in a run's metrics."""
        return [line["epoch"] for line in read_metrics(self.runs / name / "metrics.jsonl")]

    def workers(self) -> list[psutil.Process]:
        """Returns the living training workers."""
        return self.head.named("RayTrainWorker")

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """Returns the last weights of a run."""
        return dict(load_model(self.runs / name / "model_last").state_dict())

    def same(self, one: str, other: str) -> bool:
        """Returns whether two runs ended with the same weights, bit for bit."""
        first, second = self.weights(one), self.weights(other)
        return all(torch.equal(value, second[key]) for key, value in first.items())
