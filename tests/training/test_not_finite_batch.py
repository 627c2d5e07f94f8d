"""Every method on two workers, one of which gets logits that are not finite, in one step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.method_settings import method_settings
from dynat_ray.settings import build_config
from dynat_ray.training import trainer
from dynat_ray.training.finiteness import find_not_finite
from dynat_ray.training.resuming import resume
from dynat_ray.training.session import LocalSession
from dynat_ray.training.state import collect_state
from dynat_ray.training.trainer import Trainer, train
from tests.processes import run_side_by_side
from tests.training.test_other_device import settings_of

CPU = torch.device("cpu")
# Methods without an attack: in evaluation mode their steps compute nothing.
UNATTACKED = {"standard"}
# Of three steps an epoch.
BAD_STEP = 4
WHERE = {
    # As where running statistics are broken: what is learnt from stays finite.
    "eval": lambda network: not network.training,
    "train": lambda network: network.training,
}
CASES = [
    (name, where, bad)
    # The two others have weights perturbed by gradients, and attacks on statistics of the batch.
    for name in (*method_settings(), "dynat add-ons", "pgd_at L2")
    for where, bad in (("eval", math.nan), ("train", math.inf))
    if where != "eval" or name not in UNATTACKED
    # It is in evaluation mode throughout.
    if where != "train" or name != "deep_defense"
]


def folder_of(case: tuple[str, str, float], parent: Path) -> Path:
    name, where, bad = case
    return parent / f"{name}-{where}-{bad}"


def config_of(case: tuple[str, str, float], data: Path, standard: Path) -> RunConfig:
    name, where, _ = case
    settings = settings_of(name, data, standard)
    settings |= {"train.epochs": 2, "data.val_fraction": 0.0, "train.ema_decay": 0.9}
    # Three steps an epoch, the last one smaller.
    settings |= {"data.limit": 44, "train.batch_size": 20}
    if where == "eval" and "data.augment" not in settings:
        settings["attack.carry_epochs"] = 2
    return build_config([settings])


class _Worker(LocalSession):
    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(folder, CPU)
        self.rank, self.world_size = rank, 2


def _break(trainer: Trainer, rank: int, where: str, bad: float) -> None:
    """Has the network give some samples logits that are not finite, in one step on worker 1."""

    def change(network: nn.Module, inputs: Any, logits: Tensor) -> Tensor | None:
        if rank != 1 or trainer.progress.global_step != BAD_STEP or not WHERE[where](network):
            return None
        # Some that are attacked, and some that are not.
        rows = torch.arange(len(logits)) % 3 == 0
        return torch.where(rows[:, None], bad, logits)

    # Alike on both: a network with hooks has no faster twin.
    trainer.setup.model.register_forward_hook(change)


def _train_all(rank: int, cases: list[Any], data: Path, standard: Path, parent: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{parent}/meeting", rank=rank, world_size=2)
    run = Trainer.run

    for case in cases:
        kept: list[Trainer] = []

        def broken(self: Trainer, case: Any = case, kept: list[Trainer] = kept) -> None:
            kept.append(self)
            _break(self, rank, *case[1:])
            run(self)

        trainer.Trainer.run = broken  # type: ignore[method-assign]
        folder = folder_of(case, parent)
        message = "nothing was raised"
        try:
            train(config_of(case, data, standard), _Worker(folder, rank))
        except UserError as error:
            message = str(error)
        (one,) = kept
        state = collect_state(one.progress, one.networks, one.optimizer, one.setup)
        (folder / f"error-{rank}").write_text(message)
        (folder / f"state-{rank}").write_text(find_not_finite(state))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def standard(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of plain training, which two methods begin with."""
    folder = tmp_path_factory.mktemp("standard")
    train(build_config([settings_of("standard", digits, folder)]), LocalSession(folder, CPU))
    return folder


@pytest.fixture(scope="module")
def broken(digits: Path, standard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all cases, run by two workers in one pair of processes."""
    parent = tmp_path_factory.mktemp("broken")
    run_side_by_side(_train_all, CASES, digits, standard, parent, processes=2)
    return parent


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_named_and_stays_out_of_all_state(
    case: tuple[str, str, float], broken: Path, digits: Path, standard: Path
) -> None:
    name, where, _ = case
    folder = folder_of(case, broken)
    errors = [(folder / f"error-{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    print(errors[0])
    assert f"not finite at epoch 1, step {BAD_STEP - 3}, rank 1;" in errors[0]
    assert "logits are" in errors[0] or (name, where) in [("uad_at", "train")]
    assert [(folder / f"state-{rank}").read_text() for rank in range(2)] == ["", ""]
    # What was saved before is intact, and the run can go on from it.
    session = LocalSession(folder, CPU)
    assert [each.name for each in session.checkpoints()] == ["epoch_0000"]
    config = config_of(case, digits, standard)
    with trainer.closing(trainer.build_setup(config, session, 0)) as setup:
        networks = trainer.wrap(setup.model, config.train)
        optimizer = trainer.build_optimizer(
            setup.model,
            config.optim,
            setup.method.extra,
            setup.method.extra_learning_rate_ratio,
        )
        assert resume(session, networks, optimizer, setup).epoch == 1
