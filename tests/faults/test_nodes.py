"""A node is lost, and comes back, in an emulated cluster of two."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from statistics import fmean

import pytest

from dynat_ray.config import RunConfig
from dynat_ray.distributed import ray_trainer
from dynat_ray.distributed.training_run import run
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.how_far import HowFar
from dynat_ray.training.optimisation import learning_rate
from tests.faults.jobs import tell, wait_until
from tests.faults.nodes import two_nodes

pytestmark = pytest.mark.faults

SETTINGS = {
    "data.limit": 0,
    "model.name": "preact_resnet10",
    "model.kwargs": {"base_width": 16},
    "attack.steps": 10,
    "optim.schedule": "cosine",
    # No higher: a run in which the loss jumps is nothing to compare with.
    "optim.lr": 0.02,
    "train.epochs": 25,
    "train.batch_size": 64,
    "eval.attacks": ["clean"],
    "cluster.workers": "1..2",
    "cluster.max_failures": -1,
}


def start(config: RunConfig, folder: Path) -> tuple[threading.Thread, list[BaseException]]:
    """Starts a run; returns its thread, and where to find what it raised.

    Ray adds and removes nodes in the main thread only.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run(config, folder)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, failed


def test_a_node_lost_and_back(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_trainer, "_SECONDS_BETWEEN_RESIZES", 10.0)
    config = override(small_config, SETTINGS)
    folder = tmp_path / "run"
    metrics = folder / "metrics.jsonl"

    def lines() -> list[dict[str, float]]:
        return read_metrics(metrics)

    def workers() -> list[float]:
        return [line["workers"] for line in lines()]

    with two_nodes() as (cluster, other):
        thread, failed = start(config, folder)
        # The first one counts for good once the second is reported, so that it is not done again.
        wait_until(lambda: failed or workers().count(2) > 1, "two epochs with two workers")
        tell("two workers:", len(lines()), "epochs")
        cluster.remove_node(other, allow_graceful=False)
        wait_until(lambda: failed or 1 in workers(), "an epoch with one worker")
        tell("a node lost; epochs by workers", workers())
        cluster.add_node(num_cpus=1)
        wait_until(
            lambda: failed or 2 in workers()[workers().index(1) :] or not thread.is_alive(),
            "two workers again",
        )
        tell("a node is back; epochs by workers", workers())
        thread.join()
    assert not failed, failed
    tell("ended; epochs by workers", workers())
    assert [line["epoch"] for line in lines()] == list(range(25))
    counts = workers()
    assert counts[0] == 2
    assert 1 in counts
    assert 2 in counts[counts.index(1) :]
    # The global batch and the schedule are the config's, whatever the number of workers.
    steps = lines()[0]["step"]
    for line in lines():
        assert line["step"] == steps * (line["epoch"] + 1)
        last = line["epoch"] + (steps - 1) / steps
        assert line["learning_rate"] == pytest.approx(
            learning_rate(config.optim, HowFar.at(RunLength(25), last, units=0.0))
        )
    # And so what is learnt hardly differs from what two workers learn undisturbed (one learns a
    # lower loss: it normalises by the statistics of whole batches).
    with two_nodes():
        run(override(config, {"cluster.workers": 2}), tmp_path / "undisturbed")
    undisturbed = read_metrics(tmp_path / "undisturbed" / "metrics.jsonl")
    loss, expected = (fmean(line["loss"] for line in each[-5:]) for each in (lines(), undisturbed))
    tell("train loss", loss, "against", expected, "undisturbed, over the last five epochs")
    assert loss == pytest.approx(expected, rel=0.25)
    assert load_model(folder / "model_last").num_classes == 10


def test_a_drained_node_leaves_a_checkpoint_first(small_config: RunConfig, tmp_path: Path) -> None:
    """As the pods of `cluster/kuberay` do before they end."""
    settings = {"train.epochs": 12, "attack.steps": 20, "train.checkpoint_epochs": 12}
    config = override(small_config, SETTINGS | settings)
    folder = tmp_path / "run"
    with two_nodes() as (cluster, other):
        thread, failed = start(config, folder)
        wait_until(lambda: failed or read_metrics(folder / "metrics.jsonl"), "the first epoch")
        drain = [
            *(str(Path(sys.executable).parent / "ray"), "drain-node", "--address", cluster.address),
            *("--node-id", other.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message", "a test", "--deadline-remaining-seconds", "60"),
        ]
        subprocess.run(drain, check=True, capture_output=True)
        tell("drained a node")
        checkpoints = folder / "checkpoints"
        wait_until(lambda: failed or list(checkpoints.glob("epoch_*/state.pt")), "a checkpoint")
        (found,) = checkpoints.glob("epoch_*")
        tell("there is", found.name, "though no other is due in 12 epochs")
        cluster.remove_node(other, allow_graceful=False)
        thread.join()
    assert not failed, failed
    lines = read_metrics(folder / "metrics.jsonl")
    tell("ended; epochs by workers", [line["workers"] for line in lines])
    assert [line["epoch"] for line in lines] == list(range(12))
    assert lines[-1]["workers"] == 1
