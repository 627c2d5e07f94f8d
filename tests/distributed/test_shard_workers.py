"""Sharded evaluation on Ray workers against one process."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.acceleration.switch import cpu_kernels, cpu_kernels_choice
from dynat_ray.attacks.registry import get_attacks
from dynat_ray.data import LazySplit, load_split
from dynat_ray.distributed.shard_workers import ShardWorkers
from dynat_ray.errors import UserError
from dynat_ray.evaluation.plan import plan_shards
from dynat_ray.evaluation.shards import FinishedShard, Shard, run_shards
from dynat_ray.perturb.threat import Threat


class Mortal(nn.Module):
    """A small network; whoever first runs it on a batch of five in another process dies."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, 4, generator=generator))
        self.marker = marker
        self.home = os.getpid()

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 5 and os.getpid() != self.home and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return images.flatten(1) @ self.weight


class Switched(nn.Module):
    """Says class 1 where CPU kernels are switched off, else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        off = float(cpu_kernels_choice() == "off")
        return torch.tensor([[0.5, off]]).expand(len(images), 2) + 0 * images.sum()


def _plain(finished: list[FinishedShard]) -> dict[int, dict[str, list[int]]]:
    assert len({shard.number for shard, _ in finished}) == len(finished)
    return {
        shard.number: {
            name: found.predicted.tolist() for name, found in outcomes[shard.threats[0]].items()
        }
        for shard, outcomes in finished
    }


@pytest.fixture(scope="module")
def workers(local_ray: None) -> Iterator[ShardWorkers]:
    """Two, for one evaluation after the other."""
    with ShardWorkers(2) as workers:
        yield workers


@pytest.fixture
def images() -> Tensor:
    return torch.rand(29, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def shards() -> list[Shard]:
    # Sizes 5, 6, 6, 6, 6.
    return plan_shards(
        29, get_attacks(["clean", "pgd-5", "apgd-ce"]), [Threat("Linf", 0.02)], batch_size=6
    )


def test_many_workers_give_what_one_process_gives_though_one_dies(
    workers: ShardWorkers, tmp_path: Path, images: Tensor, shards: list[Shard]
) -> None:
    marker = tmp_path / "died"
    model = Mortal(marker)
    labels = model(images).argmax(dim=1)
    alone = _plain(list(run_shards(model, images, labels, shards, seed=2)))
    assert not marker.exists()
    together = _plain(list(workers.run(model, images, labels, shards, seed=2)))
    assert marker.exists()
    assert together == alone
    fooled = sum(
        predicted != int(label)
        for shard in shards
        for predicted, label in zip(
            alone[shard.number]["apgd-ce"], labels[shard.positions], strict=True
        )
    )
    assert 0 < fooled < len(images)


def test_workers_read_the_images_of_their_own_shards(
    workers: ShardWorkers, few_digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = load_split(few_digits, "test")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    shards = plan_shards(
        len(labels), get_attacks(["clean", "pgd-2"]), [Threat("Linf", 0.1)], batch_size=3
    )
    wanted = _plain(list(run_shards(model, images, labels, shards, seed=2)))

    def read(self: LazySplit, wanted: Tensor) -> Tensor:
        raise AssertionError("the command reads images")

    monkeypatch.setattr(LazySplit, "__getitem__", read)
    lazy = LazySplit(few_digits, "test")
    assert _plain(list(workers.run(model, lazy, labels, shards, seed=2))) == wanted
    nowhere = LazySplit(few_digits / "nothing", "test")
    with pytest.raises(UserError, match="does not exist; make it with"):
        list(workers.run(model, nowhere, labels, shards, seed=2))


def test_a_users_mistake_on_a_worker_arrives_as_such(
    workers: ShardWorkers, images: Tensor, shards: list[Shard]
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    nn.init.constant_(model[1].weight, float("nan"))
    labels = torch.zeros(29, dtype=torch.long)
    with pytest.raises(UserError, match="not finite for 5 of 5") as caught:
        list(workers.run(model, images, labels, shards[-1:], seed=0))
    assert "\n" not in str(caught.value)


def test_more_workers_than_the_cluster_has(
    local_ray: None, images: Tensor, shards: list[Shard]
) -> None:
    labels = torch.zeros(29, dtype=torch.long)
    with ShardWorkers(10_000) as workers:
        running = workers.run(nn.Flatten(), images, labels, shards, seed=0)
        with pytest.raises(
            UserError, match="10000 workers with 1 CPU each were asked for, but the nodes of this"
        ):
            next(running)


def test_a_model_from_the_working_directory_reaches_the_workers(
    workers: ShardWorkers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: Tensor,
    shards: list[Shard],
) -> None:
    (tmp_path / "own_network.py").write_text(
        "from torch import nn\n"
        "class Network(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.last = nn.Linear(64, 4)\n"
        "    def forward(self, images):\n"
        "        return self.last(images.flatten(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("own_network").Network()
    labels = model(images).argmax(dim=1)
    alone = _plain(list(run_shards(model, images, labels, shards, seed=2)))
    together = workers.run(model, images, labels, shards, seed=2)
    assert _plain(list(together)) == alone


class Unreachable(nn.Flatten):
    """Says that it comes from a module which no worker has."""

    def __reduce__(self) -> tuple[object, ...]:
        return _import_nothing, ()


def _import_nothing() -> None:
    importlib.import_module("no_such_module_anywhere")


def test_a_model_that_workers_cannot_load(
    workers: ShardWorkers, images: Tensor, shards: list[Shard]
) -> None:
    labels = torch.zeros(29, dtype=torch.long)
    running = workers.run(Unreachable(), images, labels, shards, seed=0)
    with pytest.raises(UserError, match=r"can't be loaded on a worker.*no_such_module_anywhere"):
        next(running)


def test_workers_use_cpu_kernels_as_their_caller_does(
    workers: ShardWorkers, images: Tensor
) -> None:
    """They may have been started under another choice, or have just been ended by a failure."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    threat = Threat("Linf", 0.0)
    shards = plan_shards(len(images), get_attacks(["clean"]), [threat], batch_size=29)
    with cpu_kernels("off"):
        ((_, outcomes),) = workers.run(Switched(), images, labels, shards, seed=0)
    assert outcomes[threat]["clean"].predicted.tolist() == [1] * len(images)
