"""Two gloo processes against one: same global batches, same result."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from dynat_ray.config import RunConfig
from dynat_ray.data import Augmentation, Batch, load_info
from dynat_ray.errors import UserError
from dynat_ray.methods import MethodLoss, Prepared
from dynat_ray.models import load_model
from dynat_ray.settings import build_config, override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training.agreement import on_all_workers
from dynat_ray.training.carrying import CarriedPerturbations
from dynat_ray.training.session import LocalSession
from dynat_ray.training.step import StepPart
from dynat_ray.training.trainer import train
from tests.processes import run_side_by_side

# Without batch statistics, and under L2, whose steps don't turn a rounding into another sign, one
# and two workers differ by rounding alone.
COMPARABLE = {
    "model.name": "mlp",
    "model.kwargs": {},
    "threat.norm": "L2",
    "threat.eps": 0.5,
    "train.epochs": 2,
    "train.batch_size": 47,  # parts of unequal size, and a partial last batch
}
METHODS = {
    "dynat": {},
    "dynat at": {"method.objective": "at"},
    "trades": {"method.name": "trades"},
    "carried": {"method.name": "pgd_at", "attack.carry_epochs": 2, "data.augment": ["crop-1"]},
    "pgd_at": {"method.name": "pgd_at"},
    "standard": {"method.name": "standard"},
    "mart": {"method.name": "mart"},
    "mail": {"method.name": "mail", "method.start": 0.0},
    "gairat": {"method.name": "gairat", "method.start": 0.0, "method.start_accuracy": 0.0},
    "fat": {"method.name": "fat"},
    "mwpb": {"method.name": "mwpb", "method.start": 0.0},
    "hat": {"method.name": "hat", "train.epochs": 1},
    "alp": {"method.name": "alp", "method.pairing": 0.1},
    "aalp": {"method.name": "aalp", "method.pairing": 0.1},
    "iaat": {"method.name": "iaat", "method.warmup": 0.0, "method.warmup_accuracy": 0.0},
    "uad_at": {"method.name": "uad_at", "train.epochs": 1},
    # At ten times this rate the loss rises, and a rounding may decide which boundary is nearest.
    "deep_defense": {"method.name": "deep_defense", "optim.lr": 0.001},
    "generative_ssl": {
        "method.name": "generative_ssl",
        "method.pretraining": 0.5,
        "method.width": 4,
    },
    # Its autoencoder must stay as it is in the second epoch, whatever its momentum.
    "generative_ssl apart": {
        "method.name": "generative_ssl",
        "method.pretraining": 0.5,
        "method.width": 4,
        "method.train_jointly": False,
        "method.lr_ratio": 1.0,
        "method.adversarial": 3.0,
    },
}
# By the setting that takes it.
NEEDS_A_MODEL = {"hat": "method.standard_model", "deep_defense": "model.init_from"}


class _Worker(LocalSession):
    """One of two processes."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder, torch.device("cpu"))
        self.rank, self.world_size = rank, 2


@contextmanager
def _process_group(rank: int, meeting: str) -> Iterator[None]:
    """Ends the group only when both have done their work: gloo's threads abort a process that
    leaves while the other still talks to it."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    yield
    dist.barrier()
    dist.destroy_process_group()


def _train_all(rank: int, runs: dict[str, tuple[RunConfig, Path]], meeting: str) -> None:
    torch.set_num_threads(1)
    with _process_group(rank, meeting):
        for config, folder in runs.values():
            train(config, _Worker(folder, rank))


def _fail_on_one(rank: int, meeting: str, folder: str) -> None:
    def build() -> int:
        if rank == 1:
            raise UserError("the disk of worker 1 is full")
        return 1

    with _process_group(rank, meeting):
        try:
            on_all_workers(build)
        except UserError as error:
            Path(folder, f"{rank}.txt").write_text(str(error))


def _carry_one_image(rank: int, config: RunConfig, meeting: str) -> None:
    info, cpu = load_info(config.data.path), torch.device("cpu")
    images = torch.full((1, 1, 8, 8), 0.5)
    change = torch.full_like(images, 1.5 * config.threat.eps)
    with _process_group(rank, meeting):
        carried = CarriedPerturbations(config, info, Augmentation([], 0), cpu)
        carried.start_epoch(0)
        batch = Batch(images, torch.zeros(1, dtype=torch.int64), torch.tensor([3]))
        carried.write([StepPart(Prepared(batch, images + change), MethodLoss(torch.zeros(())))])
        carried.start_epoch(1)
        found = carried.added_to(batch).carried
    torch.testing.assert_close(found, change, atol=0.02 * config.threat.eps, rtol=0)


@pytest.fixture(scope="module")
def folders(
    digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[RunConfig, Path]]:
    """All runs, trained by two workers in one pair of processes."""
    base = {
        "data.path": str(digits),
        "data.limit": 150,
        "data.val_fraction": 0.1,
        "data.loader": "memory",
        "attack.steps": 3,
        "optim.lr": 0.02,
        "optim.schedule": "constant",
    }
    parent = tmp_path_factory.mktemp("two")
    runs = {}
    standard = {"method.name": "standard", "train.epochs": 1}
    config = build_config([base, COMPARABLE, standard])
    train(config, LocalSession(parent / "standard model", torch.device("cpu")))
    for name, settings in METHODS.items():
        key = NEEDS_A_MODEL.get(name)
        if key:
            settings = settings | {key: str(parent / "standard model")}
        config = build_config([base, COMPARABLE, settings])
        runs[name] = (config, parent / name)
    plain = {key: value for key, value in COMPARABLE.items() if not key.startswith("model")}
    network = {"model.name": "preact_resnet10", "model.kwargs": {"base_width": 8}}
    awkward = {"train.micro_batch_size": 8, "train.awp_gamma": 0.01, "train.ema_decay": 0.9}
    config = build_config([base, plain, network, awkward])
    runs["batch statistics"] = (config, parent / "bn")
    run_side_by_side(_train_all, runs, str(parent / "meeting"), processes=2)
    return runs


@pytest.mark.parametrize("name", METHODS)
def test_two_workers_equal_one(
    folders: dict[str, tuple[RunConfig, Path]], tmp_path: Path, name: str
) -> None:
    config, folder = folders[name]
    train(config, LocalSession(tmp_path, torch.device("cpu")))
    one, two = (load_model(path / "model_last").state_dict() for path in (tmp_path, folder))
    for key, value in one.items():
        torch.testing.assert_close(
            two[key], value, atol=2e-4, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )
    for alone, together in zip(
        read_metrics(tmp_path / "metrics.jsonl"),
        read_metrics(folder / "metrics.jsonl"),
        strict=True,
    ):
        assert together["step"] == alone["step"]
        for key in ("mean_eps", "mean_attack_steps", "validation_clean_accuracy"):
            assert (together[key] is None) == (alone[key] is None)
            if alone[key] is not None:
                assert together[key] == pytest.approx(alone[key], rel=0.02)


def test_batch_statistics_average_and_accumulation_run_on_two_workers(
    folders: dict[str, tuple[RunConfig, Path]],
) -> None:
    config, folder = folders["batch statistics"]
    lines = read_metrics(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1]
    assert lines[1]["loss"] < lines[0]["loss"]
    # The same run with an epoch more, by one worker, goes on from what two have left.
    longer = override(config, {"train.epochs": 3})
    train(longer, LocalSession(folder, torch.device("cpu")))
    assert [line["epoch"] for line in read_metrics(folder / "metrics.jsonl")] == [0, 1, 2]


def test_memory_of_two_workers_is_taken_over_by_one(
    folders: dict[str, tuple[RunConfig, Path]], tmp_path: Path
) -> None:
    config, folder = folders["iaat"]
    longer = override(config, {"train.epochs": 4})
    shutil.copytree(folder, tmp_path / "two, then one")
    budgets = []
    for name in ("two, then one", "one"):
        train(longer, LocalSession(tmp_path / name, torch.device("cpu")))
        samples = pq.read_table(tmp_path / name / "samples" / "epoch_0003.parquet")
        budgets.append(torch.tensor(samples["eps"].to_pylist()))
    assert len(budgets[0].unique()) > 5
    # A sample at the very edge of what it withstands may be told apart by rounding.
    assert float((budgets[0] - budgets[1]).abs().gt(1e-4).float().mean()) < 0.02


def test_a_change_that_both_workers_have_found_is_carried_once(
    small_config: RunConfig, tmp_path: Path
) -> None:
    """As of an image that fills up the last batch."""
    attack = dataclasses.replace(small_config.attack, carry_epochs=2)
    config = dataclasses.replace(small_config, attack=attack)
    run_side_by_side(_carry_one_image, config, str(tmp_path / "meeting"), processes=2)


def test_a_mistake_of_one_worker_is_raised_on_all(tmp_path: Path) -> None:
    run_side_by_side(_fail_on_one, str(tmp_path / "meeting"), str(tmp_path), processes=2)
    for rank in range(2):
        assert (tmp_path / f"{rank}.txt").read_text() == "the disk of worker 1 is full"
