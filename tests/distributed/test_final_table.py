"""Who evaluates a trained run, and what its table holds; shards are done in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.data import LazySplit, load_split
from dynat_ray.distributed import final_table, shard_workers
from dynat_ray.distributed.capacity import NodeKind
from dynat_ray.distributed.evaluator import Workers, cluster_workers
from dynat_ray.evaluation.answers import read_answers
from dynat_ray.evaluation.results import OUTCOMES
from dynat_ray.evaluation.shards import FinishedShard, Shard, run_shards
from dynat_ray.settings import override
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
from tests.quick_attack import WHOLE, quick_attacks


class Cluster:
    """Stands for Ray: has CPUs and GPUs, and keeps what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **resources: int) -> None:
        self.asked: dict[str, Any] = {}
        self.shards = 0
        self.dies_after = 1 << 30
        kinds = [NodeKind(1, resources.get("CPU", 0), resources.get("GPU", 0))]
        monkeypatch.setattr("dynat_ray.distributed.capacity.present_nodes", lambda: kinds)
        monkeypatch.setattr("dynat_ray.distributed.cluster.is_one_machine", lambda: False)
        monkeypatch.setattr(shard_workers, "ShardWorkers", self._start)

    def _start(self, workers: int, gpu: bool, start_minutes: float) -> AbstractContextManager[Any]:
        self.asked = {"workers": workers, "gpu": gpu}
        return nullcontext(SimpleNamespace(run=self._run))

    def _run(
        self, model: Any, images: Any, labels: Any, shards: Sequence[Shard], *, seed: int
    ) -> Iterator[FinishedShard]:
        for shard in shards:
            if self.shards == self.dies_after:
                raise KeyboardInterrupt
            self.shards += 1
            yield from run_shards(model, images, labels, [shard], seed=seed)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Has `WHOLE`, a costly attack that costs little."""
    with quick_attacks():
        yield


def test_shards_follow_from_the_settings_alone(small_config: RunConfig) -> None:
    # The plan that digits' 359 test images have always had.
    config = override(small_config, {"eval.batch_size": 256})
    assert final_table._shard_size(359, config) == 180
    assert final_table._shard_size(10_000, config) == 256


@pytest.fixture
def folder(small_config: RunConfig, tmp_path: Path) -> Path:
    train(small_config, LocalSession(tmp_path, torch.device("cpu")))
    return tmp_path / "model"


def measure(folder: Path, config: RunConfig, workers: int, attacks: list[str]) -> dict[str, Any]:
    images, labels = load_split(config.data.path, "test", limit=60)
    return table_of(folder, images, labels, config, attacks, workers)


def table_of(
    folder: Path, images: Any, labels: Any, config: RunConfig, *how: Any
) -> dict[str, Any]:
    attacks, most = how
    with cluster_workers(config.cluster, most).ready() as run:
        outcomes = final_table.measure(folder, images, labels, config, attacks, run)
    return final_table.table_of(outcomes)


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
    config = override(small_config, {"cluster.gpu": gpu})
    measure(folder, config, 2, ["clean"])
    assert (cluster.asked["workers"], cluster.asked["gpu"]) == (workers, on_gpu)


@pytest.mark.parametrize(
    ("resources", "most", "on_ray"),
    [
        ({"CPU": 16}, 1, False),
        ({"CPU": 1}, 8, False),
        ({"CPU": 16}, 2, True),
        # This process may not see the GPU.
        ({"CPU": 16, "GPU": 1}, 2, True),
    ],
)
def test_one_worker_without_a_gpu_is_this_process_on_a_machine_by_itself(
    small_config: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
    resources: dict[str, int],
    most: int,
    on_ray: bool,
) -> None:
    Cluster(monkeypatch, **resources)
    config = override(small_config, {"cluster.gpu": "auto"})
    assert cluster_workers(config.cluster, most).on_ray
    monkeypatch.setattr("dynat_ray.distributed.cluster.is_one_machine", lambda: True)
    assert cluster_workers(config.cluster, most).on_ray == on_ray


def test_what_the_others_reach_on_the_images_of_a_costly_attack(
    small_config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cluster(monkeypatch, CPU=2)
    config = override(small_config, {"eval.samples": 12})
    found = measure(folder, config, 1, ["clean", "pgd-2", WHOLE])
    assert "same_samples" not in found["clean"]
    assert found[WHOLE]["samples"] == 12
    same = found[WHOLE]["same_samples"]
    assert list(same) == ["clean", "pgd-2"]
    assert same["clean"] >= same["pgd-2"] >= found[WHOLE]["accuracy"]
    alone = measure(folder, override(config, {"eval.samples": 0}), 1, ["clean", "pgd-2"])
    assert alone["clean"]["accuracy"] == found["clean"]["accuracy"]


def test_a_table_that_was_cut_short_goes_on(
    small_config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Cluster(monkeypatch, CPU=1)
    config = override(small_config, {"eval.batch_size": 20})
    images, labels = load_split(config.data.path, "test", limit=60)
    elsewhere = folder.parent / "elsewhere"
    shutil.copytree(folder, elsewhere / "model")
    wanted = table_of(elsewhere / "model", images, labels, config, ["pgd-2"], 1)
    assert whole.shards == 3

    cluster = Cluster(monkeypatch, CPU=1)
    cluster.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        measure(folder, config, 1, ["pgd-2"])
    cluster.dies_after = 1 << 30
    assert measure(folder, config, 1, ["pgd-2"]) == wanted
    assert cluster.shards == 3
    # What is finished is not done again; other images, attacks or settings are.
    assert measure(folder, config, 1, ["pgd-2"]) == wanted
    assert cluster.shards == 3
    measure(folder, config, 1, ["pgd-3"])
    assert cluster.shards == 6
    other = override(config, {"threat.eps": 0.01})
    assert measure(folder, other, 1, ["pgd-2"])["pgd-2"]["accuracy"] != wanted["pgd-2"]["accuracy"]
    table_of(folder, images.flip(0), labels.flip(0), config, ["pgd-2"], 1)
    assert cluster.shards == 12


def test_a_table_goes_on_with_another_number_of_workers(
    small_config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(small_config, {"eval.batch_size": 256, "eval.samples": 30})
    attacks = ["pgd-2", WHOLE]
    elsewhere = folder.parent / "elsewhere"
    shutil.copytree(folder, elsewhere / "model")
    Cluster(monkeypatch, CPU=7)
    wanted = measure(elsewhere / "model", config, 7, attacks)

    cluster = Cluster(monkeypatch, CPU=7)
    cluster.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        measure(folder, config, 7, attacks)
    cluster.dies_after = 1 << 30
    assert measure(folder, config, 1, attacks) == wanted
    for workers in (2, 3, 7):
        assert measure(folder, config, workers, attacks) == wanted
    # The 30 images that the costly attack sees too, and the 30 others.
    assert cluster.shards == 2


def test_a_curve_has_every_radius_and_their_mean(small_config: RunConfig, folder: Path) -> None:
    config = override(small_config, {"eval.eps_curve": "0,1/255", "eval.attacks": "clean,pgd-2"})
    results = final_table.measure_run(config, folder.parent, workers=Workers(1, on_ray=False))
    curve = results["eps_curve"]["best"]["curve"]
    assert [point["eps"] for point in curve] == [0, 1 / 255, small_config.threat.eps]
    right = [point["results"]["pgd-2"]["accuracy"] for point in curve]
    assert right[0] == results["best"]["clean"]["accuracy"] >= right[1] >= right[2]
    assert right[2] == results["best"]["pgd-2"]["accuracy"]
    mean = results["eps_curve"]["best"]["expected_robustness"]["pgd-2"]
    assert mean == pytest.approx(sum(right) / 3, abs=1e-3)


def test_a_run_leaves_what_became_of_every_test_image(
    small_config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"eval.attacks": ["clean", "pgd-2", WHOLE], "eval.samples": 12}
    here = Workers(1, on_ray=False)
    config = override(small_config, settings)
    taken, take = [], LazySplit.__getitem__
    monkeypatch.setattr(
        LazySplit,
        "__getitem__",
        lambda self, wanted: taken.append(len(wanted)) or take(self, wanted),
    )
    results = final_table.measure_run(config, folder.parent, workers=here)
    # A shard at a time, never the whole split.
    assert max(taken) <= final_table._shard_size(359, config) < 359
    found = read_answers(folder.parent / OUTCOMES, ["clean", "pgd-2", WHOLE], model="last")
    for attack, answers in found.items():
        entry = results["last"][attack]
        assert len(answers.index) == entry["samples"]
        assert 100 * answers.right.mean() == pytest.approx(entry["accuracy"], abs=1e-3)
    assert found["clean"].index.tolist() == list(range(results["last"]["clean"]["samples"]))
    assert len(found[WHOLE].index) == 12
    assert pq.read_table(folder.parent / OUTCOMES)["model"].unique().to_pylist() == ["best", "last"]
