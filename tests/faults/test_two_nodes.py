"""CIFAR-10 on an emulated cluster of two nodes, a worker on each.

Needs a prepared CIFAR-10: CIFAR10=/path/to/it make faults.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ray.util.state import list_actors

from dynat_ray.distributed.training_run import run
from dynat_ray.settings import build_config, read_recipe
from dynat_ray.storage.metrics import read_metrics
from tests.faults.jobs import tell, wait_until
from tests.faults.nodes import two_nodes

pytestmark = pytest.mark.faults


@pytest.mark.skipif("CIFAR10" not in os.environ, reason="CIFAR10 names no prepared data set")
def test_two_epochs_with_workers_on_both_nodes(tmp_path: Path) -> None:
    settings = {
        "data.path": os.environ["CIFAR10"],
        "train.epochs": 2,
        "eval.attacks": ["clean", "pgd-5"],
        "eval.steps": 3,
    }
    config = build_config([read_recipe("cifar10-small"), settings])
    folder = tmp_path / "run"
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run(config, folder)
        except BaseException as error:
            failed.append(error)

    with two_nodes() as (cluster, _):
        thread = threading.Thread(target=work)
        thread.start()
        places: set[str] = set()

        def both() -> bool:
            actors = list_actors(
                address=cluster.address,
                filters=[("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")],
            )
            places.update(actor.node_id for actor in actors)
            return bool(failed) or len(places) == 2

        wait_until(both, "a worker on each node")
        tell("workers on nodes", *sorted(place[:8] for place in places))
        thread.join()
    assert not failed, failed
    lines = read_metrics(folder / "metrics.jsonl")
    for line in lines:
        tell({k: line[k] for k in ("epoch", "workers", "loss", "images_per_second", "seconds")})
    assert [(line["epoch"], line["workers"]) for line in lines] == [(0, 2), (1, 2)]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert (folder / "report.html").exists()
