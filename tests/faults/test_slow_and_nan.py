"""One worker of two is much slower, or computes something that is not finite: it is named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import build_config, override
from dynat_ray.training import timing, trainer
from dynat_ray.training.session import LocalSession
from tests.small_run import SMALL

_PAUSE = 0.8
_BAD_STEP = 2
SLOW = ["dynat", "pgd_at"]


class _Worker(LocalSession):
    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder, torch.device("cpu"))
        self.rank, self.world_size = rank, 2
        self.place = f"machine-{rank}"

    def note(self, message: str) -> None:
        with (self.run_folder / "notes").open("a") as file:
            file.write(message + "\n")


def _train_all(rank: int, runs: dict[str, RunConfig], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, config in runs.items():
        with pytest.MonkeyPatch.context() as patch:
            _train(rank, config, folder / name, name.split()[0], patch)
    dist.barrier()
    dist.destroy_process_group()


def _train(
    rank: int, config: RunConfig, folder: Path, fault: str, patch: pytest.MonkeyPatch
) -> None:
    step = trainer.Stepper.step

    def faulty(self: Any, batch: Any, epoch: int, global_step: int, size: int) -> Any:
        if rank == 1 and fault == "slow":
            time.sleep(_PAUSE)
        outcome = step(self, batch, epoch, global_step, size)
        if rank == 1 and fault == "nan" and global_step == _BAD_STEP:
            outcome.loss.fill_(float("nan"))
        return outcome

    patch.setattr(trainer.Stepper, "step", faulty)
    if fault == "little":
        # What a busy machine does to workers that are alike.
        patch.setattr(timing.working_time, "take", lambda: 3.0 + 1.5 * rank)
    session = _Worker(folder / "run", rank)
    try:
        trainer.train(config, session)
    except UserError as error:
        (folder / f"error-{rank}").write_text(str(error))


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs, trained by one pair of processes."""
    settings = {
        **SMALL,
        "data.path": str(digits),
        "cluster.workers": 2,
        "cluster.gpu": False,
        "train.epochs": 1,
        "train.batch_size": 24,
    }
    config = build_config([settings])
    runs = {f"slow {name}": override(config, {"method.name": name}) for name in SLOW}
    runs |= {"little": config, "nan": config}
    folder = tmp_path_factory.mktemp("faults")
    for name in runs:
        (folder / name).mkdir()
    mp.spawn(_train_all, args=(runs, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("method", SLOW)
def test_a_slow_worker_is_named_with_its_machine(trained: Path, method: str) -> None:
    note = (trained / f"slow {method}" / "run" / "notes").read_text()
    print(note)
    assert note.startswith("epoch 1: worker 1 on machine-1 works ")
    assert note.count("\n") == 1


def test_workers_that_differ_little_are_not_named(trained: Path) -> None:
    assert (trained / "little" / "run" / "metrics.jsonl").exists()
    assert not (trained / "little" / "run" / "notes").exists()


def test_a_worker_with_nan_is_named_with_epoch_and_step(trained: Path) -> None:
    errors = [(trained / "nan" / f"error-{rank}").read_text() for rank in range(2)]
    print(errors[0])
    assert errors[0] == errors[1]
    assert f"not finite at epoch 0, step {_BAD_STEP}, rank 1;" in errors[0]
