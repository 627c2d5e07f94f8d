"""Who evaluates a trained run, and what its table holds; shards are done in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray.attacks.outcomes import FinishedShard
from dynat_ray.attacks.shards import Shard, evaluate_shard
from dynat_ray.config import RunConfig
from dynat_ray.config_files import override
from dynat_ray.data import load_split
from dynat_ray.distributed import run
from dynat_ray.methods import method_settings
from dynat_ray.training.loop import train
from dynat_ray.training.session import LocalSession


class Cluster:
    """Stands for Ray: has CPUs and GPUs, and keeps what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **resources: int) -> None:
        self.asked: dict[str, Any] = {}
        monkeypatch.setattr(run, "cluster_total", lambda kind: resources.get(kind, 0))
        monkeypatch.setattr(run, "run_shards_on_ray", self._run)

    def _run(
        self, model: Any, images: Any, labels: Any, shards: list[Shard], **asked: Any
    ) -> Iterator[FinishedShard]:
        self.asked = asked
        for shard in shards:
            positions = torch.from_numpy(shard.positions)
            outcome = evaluate_shard(
                model,
                images[positions].float() / 255,
                labels[positions],
                shard,
                norm=asked["norm"],
                seed=asked["seed"],
            )
            yield shard, outcome


@pytest.fixture
def folder(small_config: RunConfig, tmp_path: Path) -> Path:
    train(small_config, LocalSession(tmp_path, torch.device("cpu")))
    return tmp_path / "model"


def measure(folder: Path, config: RunConfig, workers: int, attacks: list[str]) -> dict[str, Any]:
    images, labels = load_split(config.data.path, "test", limit=60)
    return run.measure(folder, images, labels, config, attacks, workers=workers)


@pytest.mark.parametrize(
    ("gpu", "resources", "workers", "on_gpu"),
    [
        (False, {"CPU": 16, "GPU": 1}, 2, False),
        ("auto", {"CPU": 16, "GPU": 1}, 1, True),
        ("auto", {"CPU": 1}, 1, False),
        ("auto", {"CPU": 16, "GPU": 8}, 2, True),
    ],
)
def test_it_takes_no_more_than_there_is_and_no_gpu_that_the_run_may_not_have(
    small_config: RunConfig,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: Any,
    resources: dict[str, int],
    workers: int,
    on_gpu: bool,
) -> None:
    cluster = Cluster(monkeypatch, **resources)
    config = override(small_config, {"cluster.gpu": gpu}, method_settings())
    measure(folder, config, 2, ["clean"])
    assert (cluster.asked["workers"], cluster.asked["gpu"]) == (workers, on_gpu)


def test_what_the_others_reach_on_the_images_of_a_costly_attack(
    small_config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster(monkeypatch, CPU=2)
    config = override(small_config, {"eval.samples": 12}, method_settings())
    found = measure(folder, config, 1, ["clean", "pgd-2", "square"])
    assert "same_samples" not in found["clean"]
    assert found["square"]["samples"] == 12
    same = found["square"]["same_samples"]
    assert list(same) == ["clean", "pgd-2"]
    assert same["clean"] >= same["pgd-2"] >= found["square"]["accuracy"]
    alone = measure(
        folder, override(config, {"eval.samples": 0}, method_settings()), 1, ["clean", "pgd-2"]
    )
    assert alone["clean"]["accuracy"] == found["clean"]["accuracy"]
