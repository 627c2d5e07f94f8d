"""What is not finite stays out of weights, buffers and averages, is named, and is never saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import override
from dynat_ray.training import epoch_validation, trainer
from dynat_ray.training.agreement import SharedUserError
from dynat_ray.training.checkpoint import read_checkpoint, write_checkpoint
from dynat_ray.training.finiteness import (
    LOSS,
    FiniteWatch,
    Look,
    find_not_finite,
    finite_flags,
    require_finite_state,
)
from dynat_ray.training.session import LocalSession
from dynat_ray.training.state import collect_state
from dynat_ray.training.trainer import Trainer, train
from dynat_ray.training.weight_average import FiniteAverage

CPU = torch.device("cpu")
BAD = [float("nan"), float("inf"), float("-inf")]
# A step of the second epoch, of five steps each.
BAD_STEP = 6


@pytest.mark.parametrize("bad", BAD)
def test_flags(bad: float) -> None:
    tensors = [torch.zeros(2, 3), torch.tensor(1.0), torch.rand(5, dtype=torch.bfloat16)]
    assert finite_flags(tensors).tolist() == [True] * 3
    tensors[0][1, 2] = bad
    tensors[2][0] = bad
    assert finite_flags(tensors).tolist() == [False, True, False]


def test_infinities_do_not_cancel() -> None:
    assert not finite_flags([torch.tensor([float("inf"), float("-inf")])]).any()


def look(**bad: bool) -> Look:
    names = ("the clean logits are", "the budgets are", LOSS, "the buffer mean is")
    values = [float("nan") if bad.get(name.split()[-2]) else 0.0 for name in names]
    return Look.at(zip(names, torch.tensor(values), strict=True))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            {"loss": True, "mean": True},
            r"^the loss is not finite at epoch 3, step 9, rank 0; the l",
        ),
        ({"logits": True}, "^the clean logits are not finite at epoch 3, step 9, rank 0; the l"),
        ({"mean": True}, "^the buffer mean is not finite at epoch 3, step 9, rank 0; the l"),
        (
            {"loss": True, "budgets": True},
            "^the loss is not finite at epoch 3, step 9, rank 0; before that, the budgets are not;",
        ),
    ],
)
def test_the_watch_names_what_was_first(bad: dict[str, bool], words: str) -> None:
    watch = FiniteWatch(7)
    watch.see(look(), 3)
    watch.see(look(), 3)
    watch.see(look(**bad), 3)
    watch.see(look(logits=True, budgets=True, loss=True, mean=True), 3)
    with pytest.raises(SharedUserError, match=words):
        watch.check(3)


def test_the_watch_checks_by_itself() -> None:
    watch = FiniteWatch(0)
    for _ in range(20):
        watch.see(look(), 0)
    watch.see(look(loss=True), 0)
    with pytest.raises(SharedUserError, match="step 20, rank 0"):
        for _ in range(20):
            watch.see(look(), 0)


def test_an_average_has_the_decay_that_it_is_given_and_stays_finite() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average, seen = FiniteAverage(network, decay=0.9), []
    for step in range(5):
        network(torch.rand(6, 3))
        with torch.no_grad():
            network[0].weight.add_(torch.rand(4, 3))
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        average.update(network, step)
        weights = torch.tensor([0.9 ** (step - each) for each in range(step + 1)])
        for name, value in average.module.state_dict().items():
            if value.is_floating_point():
                values = torch.stack([each[name] for each in seen])
                expected = torch.tensordot(weights / weights.sum(), values, dims=1)
                torch.testing.assert_close(value, expected)
            else:
                assert torch.equal(value, seen[-1][name])
    before = {name: value.clone() for name, value in average.module.state_dict().items()}
    with torch.no_grad():
        network[0].weight[1, 1] = float("nan")
    average.update(network, 5)
    assert all(torch.equal(value, before[n]) for n, value in average.module.state_dict().items())


def _nan_gradient(trainer: Trainer, step: int) -> None:
    weight = trainer.setup.model.backbone.get_parameter("head.fc.weight")
    weight.register_hook(
        lambda found: found * (float("nan") if trainer.progress.global_step == step else 1)
    )


def _infinite_weight(trainer: Trainer, step: int) -> None:
    weight = trainer.setup.model.backbone.get_parameter("head.fc.weight")

    def break_it(*_: Any) -> None:
        if trainer.progress.global_step == step:
            weight.data[0, 0] = float("inf")

    trainer.optimizer.register_step_post_hook(break_it)


def _nan_buffer(trainer: Trainer, step: int) -> None:
    norm = next(m for m in trainer.setup.model.modules() if isinstance(m, nn.BatchNorm2d))

    def break_it(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module.training and trainer.progress.global_step == step:
            assert norm.running_var is not None
            norm.running_var.data[0] = float("nan")

    norm.register_forward_hook(break_it)


def _nan_features(trainer: Trainer, step: int) -> None:
    """In attacks too, which leave running statistics as they are: 0 times the batch's."""

    def break_it(module: nn.Module, inputs: Any, features: Tensor) -> Tensor:
        return features * (float("nan") if trainer.progress.global_step == step else 1)

    convolution = next(m for m in trainer.setup.model.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(break_it)


class Broken:
    """Breaks trainers when they are made, and keeps the last."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Trainer, int], None]
    ) -> None:
        self.step = BAD_STEP
        broken = self

        class BrokenTrainer(Trainer):
            def run(self) -> None:
                broken.trainer = self
                fault(self, broken.step)
                super().run()

        monkeypatch.setattr(trainer, "Trainer", BrokenTrainer)

    def state(self) -> dict[str, Any]:
        kept = self.trainer
        return collect_state(kept.progress, kept.networks, kept.optimizer, kept.setup)


SETTINGS = {"train.ema_decay": 0.9, "train.batch_size": 18, "attack.carry_epochs": 2}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_nan_gradient, r"^the gradient of backbone\.head\.fc\.weight is"),
        (_infinite_weight, r"^the weight backbone\.head\.fc\.weight is"),
        (_nan_buffer, r"^the buffer backbone\.\S*\.running_var is"),
    ],
)
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_step_that_breaks_while_its_loss_is_finite(
    small_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[Trainer, int], None],
    words: str,
    clip: float,
) -> None:
    config = override(small_config, SETTINGS | {"train.clip_grad_norm": clip})
    broken = Broken(monkeypatch, fault)
    session = LocalSession(tmp_path, CPU)
    with pytest.raises(UserError, match=f"{words} not finite at epoch 1, step 1, rank 0; the last"):
        train(config, session)
    state = broken.state()
    assert find_not_finite({"average": state["average"]}) == ""
    if fault is not _infinite_weight:
        assert find_not_finite(state) == ""
    assert [folder.name for folder in session.checkpoints()] == ["epoch_0000"]
    broken.step = -1
    train(config, session)
    assert [folder.name for folder in session.checkpoints()] == ["epoch_0001", "epoch_0000"]


@pytest.mark.parametrize("method", ["dynat", "generative_ssl"])
def test_statistics_stay_finite_where_features_are_not(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    settings = {"method.name": method, "attack.batch_norm": "train"}
    if method == "generative_ssl":
        settings |= {"method.pretraining": 0.0, "method.width": 4, "attack.carry_epochs": 0}
    broken = Broken(monkeypatch, _nan_features)
    with pytest.raises(UserError, match="not finite at epoch 1, step 1, rank 0; before that, the"):
        train(override(small_config, SETTINGS | settings), LocalSession(tmp_path, CPU))
    assert find_not_finite(broken.state()) == ""


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("model", r"the model's backbone\.\S*\.running_mean"),
        ("average", r"the weight average's backbone\.\S*\.running_mean"),
        ("best_weights", r"the best model's backbone\.\S*\.running_mean"),
        ("optimizer", r"the optimiser's state\.\d+\.momentum_buffer"),
        ("method", "the method's budget.gap"),
    ],
)
def test_a_state_that_is_not_finite_is_neither_saved_nor_gone_on_from(
    small_config: RunConfig, tmp_path: Path, part: str, words: str
) -> None:
    config = override(small_config, SETTINGS | {"train.epochs": 1})
    session = LocalSession(tmp_path, CPU)
    train(config, session)
    (folder,) = session.checkpoints()
    state = read_checkpoint(folder)
    assert state is not None
    require_finite_state(state)
    if part == "optimizer":
        state[part]["state"][0]["momentum_buffer"].view(-1)[0] = float("inf")
    elif part == "method":
        state[part]["budget"]["gap"] = float("nan")
    else:
        name = next(name for name in state[part] if name.endswith("running_mean"))
        state[part][name][0] = float("-inf")
    with pytest.raises(SharedUserError, match=f"^{words} is not finite; the last checkpoint"):
        require_finite_state(state)
    write_checkpoint(folder, state)
    with pytest.raises(UserError, match=f"^{words} is not finite in the checkpoint"):
        train(override(config, {"train.epochs": 2}), session)
    assert [folder.name for folder in session.checkpoints()] == ["epoch_0000"]


def test_values_whose_sum_overflows_are_finite() -> None:
    assert find_not_finite({"model": {"weight": torch.full((4,), 3e38)}}) == ""


def test_a_buffer_that_breaks_after_the_last_step_is_not_saved(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(small_config, {"data.val_fraction": 0.0})

    def end_epoch(self: Trainer, record: Any) -> None:
        if self.progress.epoch == 2:
            buffers = self.setup.model.state_dict()
            next(each for name, each in buffers.items() if "running" in name).fill_(float("nan"))
        ended(self, record)

    ended = Trainer.end_epoch
    monkeypatch.setattr(Trainer, "end_epoch", end_epoch)
    session = LocalSession(tmp_path, CPU)
    with pytest.raises(
        SharedUserError, match=r"^the model's \S*running_mean is not finite; the last"
    ):
        train(config, session)
    assert [folder.name for folder in session.checkpoints()] == ["epoch_0000"]
    assert not (tmp_path / "model_last").exists()


def test_a_validation_that_is_not_finite_ends_the_run(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(network: nn.Module, *rest: Any) -> Any:
        handle = network.register_forward_hook(lambda *call: call[2] * float("nan"))
        try:
            return validated(network, *rest)
        finally:
            handle.remove()

    validated = epoch_validation.validate
    monkeypatch.setattr(epoch_validation, "validate", validate)
    with pytest.raises(
        SharedUserError,
        match="^the logits of 10 of 10 validation images are not finite after epoch 0;",
    ):
        train(small_config, LocalSession(tmp_path, CPU))
    assert not (tmp_path / "checkpoints").exists()
