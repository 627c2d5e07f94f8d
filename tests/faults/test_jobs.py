"""Our commands as submitted Ray jobs, on a cluster with token authentication, which loses parts.

All runs here have the same settings, so that one that was disturbed must end with the weights of
the one that was not.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.cluster import Head, kill
from tests.faults.jobs import Jobs, tell, wait_until

pytestmark = pytest.mark.faults

SMALL = "--eval.attacks clean,pgd-5 --eval.samples 50"
TRAIN = f"train --train.epochs 3 --train.checkpoint_minutes 0.02 {SMALL} --resume --name"
WHOLE = "whole"
HEADER = ("data", "model", "method", "threat", "attack", "training", "seed", "workers", "folder")
TABLE = ("test images", " ", "best", "last")
# The first run prepares the images, and says how many there are of each class.
PREPARED = ("digits: train: 0 142, ", "digits: test: 0 36, ")


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    with Head(environment={"RAY_JOB_STOP_WAIT_TIME_S": "60"}) as head:
        tell("a head with 2 CPUs and token authentication at", head.dashboard)
        yield Jobs(head)


@pytest.fixture(scope="module")
def whole(jobs: Jobs) -> list[str]:
    """The log of a run that nothing happens to."""
    return jobs.succeed(f"{TRAIN} {WHOLE}")


def test_without_the_token_nobody_submits(jobs: Jobs) -> None:
    environment = jobs.head.environment | {"RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_AUTH_TOKEN_PATH")
    done = subprocess.run(
        ["ray", "job", "list", "--address", jobs.head.dashboard],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "authentication token" in done.stdout + done.stderr
    tell("without the token: refused")


def test_the_log_holds_header_epochs_and_table(jobs: Jobs, whole: list[str]) -> None:
    prepared, whole = whole[: len(PREPARED)], whole[len(PREPARED) :]
    for line, start in zip(prepared, PREPARED, strict=True):
        assert line.startswith(start), line
    for line in whole:
        known = line.startswith((*HEADER, *TABLE)) or re.match(r"epoch \d/3  loss", line)
        assert known or line == str(jobs.runs / WHOLE / "report.html"), line
    assert [line.split()[0] for line in whole[: len(HEADER)]] == list(HEADER)
    assert whole[-1] == str(jobs.runs / WHOLE / "report.html")
    assert jobs.epochs(WHOLE) == [0, 1, 2]
    tell("the log has", len(prepared) + len(whole), "lines, all ours")


def test_a_worker_killed_in_an_epoch(jobs: Jobs, whole: list[str]) -> None:
    job = jobs.submit(f"{TRAIN} killed-worker")
    wait_until(lambda: len(jobs.epochs("killed-worker")) == 1, "the first epoch")
    kill(victim := jobs.workers()[-1])
    tell("killed the worker process", victim.pid, "after the first epoch")
    assert jobs.wait(job) == "SUCCEEDED", jobs.log(job)
    (word,) = [line for line in jobs.log(job) if "; restart 1 of at most 3, " in line]
    assert word.startswith("note: the process of worker ")
    assert jobs.epochs("killed-worker") == [0, 1, 2]
    assert jobs.same(WHOLE, "killed-worker")
    tell("it went on; every epoch once, and the weights are those of the undisturbed run")


def test_a_worker_that_gets_sigterm_saves_first(jobs: Jobs, whole: list[str]) -> None:
    job = jobs.submit(f"{TRAIN} signalled-worker".replace("0.02", "0"))
    wait_until(lambda: len(jobs.epochs("signalled-worker")) == 1, "the first epoch")
    before = {worker.pid for worker in jobs.workers()}
    os.kill(victim := min(before), signal.SIGTERM)
    folder = jobs.runs / "signalled-worker" / "checkpoints"
    wait_until(lambda: list(folder.glob("epoch_*_step_*/state.sha256")), "a checkpoint in an epoch")
    tell("SIGTERM to worker", victim, "->", *(path.name for path in folder.glob("*_step_*")))
    assert jobs.wait(job) == "SUCCEEDED", jobs.log(job)
    assert jobs.same(WHOLE, "signalled-worker")
    tell("it ended, the others went on, and the weights are those of the undisturbed run")


def test_the_driver_killed_and_the_job_submitted_again(jobs: Jobs, whole: list[str]) -> None:
    job = jobs.submit(f"{TRAIN} killed-driver")
    wait_until(lambda: len(jobs.epochs("killed-driver")) == 1, "the first epoch")
    for process in jobs.head.named("-m dynat_ray.train"):
        kill(process)
    assert jobs.wait(job) == "FAILED"
    wait_until(lambda: not jobs.workers(), "the end of the workers")
    tell("killed the driver after the first epoch; its workers ended")
    jobs.succeed(f"{TRAIN} killed-driver")
    assert jobs.epochs("killed-driver") == [0, 1, 2]
    assert jobs.same(WHOLE, "killed-driver")
    tell("submitted again, it went on to the same weights")


def test_a_stopped_job_saves_ends_its_workers_and_goes_on(jobs: Jobs, whole: list[str]) -> None:
    command = f"{TRAIN} stopped".replace("0.02", "0")
    job = jobs.submit(command)
    wait_until(lambda: len(jobs.epochs("stopped")) == 1, "the first epoch")
    jobs.head.ray("job", "stop", job)
    assert jobs.wait(job) == "STOPPED"
    wait_until(lambda: not jobs.workers(), "the end of the workers")
    found = [path.name for path in (jobs.runs / "stopped" / "checkpoints").glob("*_step_*")]
    tell("stopped:", jobs.log(job)[-1], "| checkpoint", *found)
    assert found
    assert f"go on with: python -m dynat_ray.{command}" in jobs.log(job)[-1]
    jobs.succeed(f"{TRAIN} stopped")
    assert jobs.same(WHOLE, "stopped")
    tell("submitted again, it went on to the same weights")


def test_evaluate(jobs: Jobs, whole: list[str]) -> None:
    log = jobs.succeed(f"evaluate {jobs.runs / WHOLE} --attacks clean,pgd-3 --workers 2")
    results = json.loads((jobs.runs / WHOLE / "evaluation.json").read_text())["results"]
    assert results["clean"]["samples"] == 359
    assert log[-1] == str(jobs.runs / WHOLE / "evaluation.json")
    tell("evaluated:", results["pgd-3"])


def test_tune(jobs: Jobs) -> None:
    log = jobs.succeed(
        "tune tune_spaces/trades.yaml --trials 2 --train.epochs 1 --cluster.workers 1 "
        f"--no-early-stop --name search {SMALL}"
    )
    assert log[-1] == str(jobs.runs / "search" / "report.html")
    assert [line for line in log if "raylet" in line or "WARNING" in line] == []
    assert (jobs.runs / "search" / "best.yaml").exists()
    assert (jobs.runs / "search" / "trials.parquet").exists()
    tell("searched:", log[-1])


def test_compare(jobs: Jobs) -> None:
    log = jobs.succeed(f"compare --methods pgd_at,trades --train.epochs 1 --name both {SMALL}")
    assert "trades" in (jobs.runs / "both" / "compare.md").read_text()
    tell("compared:", log[-1])


@pytest.mark.parametrize(
    "command",
    [
        "train --data.path /Users/anna/photos",
        "tune /Users/anna/space.yaml --trials 2",
        "evaluate /Users/anna/runs/mine",
        "train --out /Users/anna/runs",
    ],
)
def test_a_path_of_the_submitting_machine(jobs: Jobs, command: str) -> None:
    job = jobs.submit(command)
    assert jobs.wait(job) == "FAILED"
    (line,) = [line for line in jobs.log(job) if line.startswith("error: ")]
    assert "head node" in line
    assert "/Users/anna" in line
    tell(line)
