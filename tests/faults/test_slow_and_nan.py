"""One worker of two is much slower, or computes something that is not finite: it is named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import override
from dynat_ray.training import timing, trainer
from dynat_ray.training.session import LocalSession
from tests.processes import run_side_by_side

# Of what a step takes: the other worker is as slow where the machine is busy.
_PAUSE = 4
_BAD_STEP = 2


class _Worker(LocalSession):
    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder, torch.device("cpu"))
        self.rank, self.world_size = rank, 2
        self.place = f"machine-{rank}"

    def note(self, message: str) -> None:
        with (self.run_folder / "notes").open("a") as file:
            file.write(message + "\n")


def _train(rank: int, config: RunConfig, folder: Path, fault: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    step = trainer.Stepper.step

    took = 0.1

    def faulty(self: Any, batch: Any, epoch: int, global_step: int, size: int) -> Any:
        nonlocal took
        if rank == 1 and fault == "slow":
            time.sleep(_PAUSE * took)
        begin = time.perf_counter()
        outcome = step(self, batch, epoch, global_step, size)
        took = time.perf_counter() - begin
        if rank == 1 and fault == "nan" and global_step == _BAD_STEP:
            outcome.loss.fill_(float("nan"))
        return outcome

    trainer.Stepper.step = faulty  # type: ignore[method-assign]
    if fault == "little":
        # What a busy machine does to workers that are alike.
        timing.working_time.take = lambda: 3.0 + 1.5 * rank  # type: ignore[method-assign]
    session = _Worker(folder / "run", rank)
    try:
        trainer.train(config, session)
    except UserError as error:
        (folder / f"error-{rank}").write_text(str(error))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture
def config(small_config: RunConfig) -> RunConfig:
    settings = {"train.epochs": 1, "train.batch_size": 24}
    return override(small_config, settings)


@pytest.mark.parametrize("method", ["dynat", "pgd_at"])
def test_a_slow_worker_is_named_with_its_machine(
    config: RunConfig, tmp_path: Path, method: str
) -> None:
    config = override(config, {"method.name": method})
    run_side_by_side(_train, config, tmp_path, "slow", processes=2)
    note = (tmp_path / "run" / "notes").read_text()
    print(note)
    assert note.startswith("epoch 1: worker 1 on machine-1 works ")
    assert note.count("\n") == 1


def test_workers_that_differ_little_are_not_named(config: RunConfig, tmp_path: Path) -> None:
    run_side_by_side(_train, config, tmp_path, "little", processes=2)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "notes").exists()


def test_a_worker_with_nan_is_named_with_epoch_and_step(config: RunConfig, tmp_path: Path) -> None:
    run_side_by_side(_train, config, tmp_path, "nan", processes=2)
    errors = [(tmp_path / f"error-{rank}").read_text() for rank in range(2)]
    print(errors[0])
    assert errors[0] == errors[1]
    assert f"not finite at epoch 0, step {_BAD_STEP}, rank 1;" in errors[0]
