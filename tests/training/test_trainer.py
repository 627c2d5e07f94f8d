"""The loop in one process: it learns, resumes to the last bit, and says what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.hardware import processor_name
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training import checkpoint
from dynat_ray.training.session import LocalSession
from dynat_ray.training.setup import check_run
from dynat_ray.training.trainer import train
from tests.small_run import DEEPER
from tests.training.stopped_session import Stopped, StopsAfterReports

CPU = torch.device("cpu")


def run(config: RunConfig, folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Trains in `folder` and returns the last weights."""
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    train(override(config, keys), LocalSession(folder, CPU))
    return load_model(folder / "model_last").state_dict()


class Whole(NamedTuple):
    """A run that tests of this module share; nobody changes its folder."""

    config: RunConfig
    folder: Path
    weights: dict[str, torch.Tensor]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_leaves_what_it_should(small_config: RunConfig, tmp_path: Path) -> None:
    run(override(small_config, DEEPER | {"data.limit": 200}), tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    table = pq.read_table(tmp_path / "samples" / "epoch_0001.parquet").to_pandas()
    assert len(table) == table["index"].nunique() == 180
    # Wrong samples are not attacked; the others get eps on average.
    right = table["predicted"] == table["label"]
    assert table["eps"][right].mean() == pytest.approx(small_config.threat.eps, rel=0.1)
    assert table["attack_steps"][right].between(1, 3).all()
    assert not table[["eps", "attack_steps", "weight"]][~right].any(axis=None)
    assert lines[-1]["attacked_share"] == pytest.approx(100 * right.mean())
    assert lines[-1]["mean_eps"] == pytest.approx(table["eps"][right].mean())
    assert lines[-1]["mean_attack_steps"] == pytest.approx(table["attack_steps"][right].mean())
    assert table["weight"].mean() == pytest.approx(1, abs=0.05)
    assert all(0 < line["loader_seconds"] < line["seconds"] for line in lines)
    assert lines[-1]["device_name"] == processor_name()
    assert load_model(tmp_path)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "train__ema_decay": 0.9,
            "train__awp_gamma": 0.01,
            "optim__name": "adamw",
            "optim__lr": 1e-3,
        },
        {
            "method__name": "iaat",
            "method__warmup": 0.0,
            "method__warmup_accuracy": 0.0,
            # So many that after two epochs some withstand an attack.
            "data__limit": 200,
        },
        {
            "method__name": "generative_ssl",
            "method__pretraining": 0.0,
            "method__width": 4,
            "train__awp_gamma": 0.01,
        },
        {"attack__carry_epochs": 3, "data__augment": ["crop-1", "flip"]},
        # What it drops comes from PyTorch's own generator, all else from keys.
        {"model__kwargs": {"channels": [8, 16], "drop_rate": 0.5}},
    ],
    ids=[
        "plain",
        "ema-awp-adamw",
        "remembered-budgets",
        "networks-of-its-own",
        "carried-perturbations",
        "dropout",
    ],
)
def test_two_and_two_epochs_equal_four(
    small_config: RunConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = run(small_config, tmp_path / "whole", train__epochs=4, **settings)
    run(small_config, tmp_path / "parts", train__epochs=2, **settings)
    parts = run(small_config, tmp_path / "parts", train__epochs=4, **settings)
    assert same(whole, parts)
    assert [line["epoch"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")] == [
        0,
        1,
        2,
        3,
    ]
    clean = [line["loss"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert clean == [line["loss"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl")]


@pytest.fixture(scope="module")
def looks(shared_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A whole run that may write a checkpoint after every other step."""
    settings = {"train.batch_size": 12, "train.checkpoint_minutes": 1e-9, "train.ema_decay": 0.9}
    config = override(shared_config, settings | {"attack.carry_epochs": 2})
    folder = tmp_path_factory.mktemp("looks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 2)
        return Whole(config, folder, run(config, folder))


@pytest.mark.parametrize("reports", [1, 2, 4])
def test_a_run_stopped_inside_an_epoch_goes_on_exactly(
    looks: Whole, tmp_path: Path, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 2)
    # Not more often on a busy machine, where a step may take seconds.
    monkeypatch.setattr(checkpoint, "_SECONDS_BETWEEN_LOOKS", 1e9)
    with pytest.raises(Stopped):
        train(looks.config, StopsAfterReports(tmp_path, reports))
    newest = LocalSession(tmp_path, CPU).checkpoints()[0].name
    assert ("step" in newest) == (reports != 4)
    assert same(looks.weights, run(looks.config, tmp_path))
    lines = [read_metrics(folder / "metrics.jsonl") for folder in (looks.folder, tmp_path)]
    for key in ("loss", "mean_eps", "train_clean_accuracy", "passes_per_sample", "step"):
        assert [line[key] for line in lines[0]] == [line[key] for line in lines[1]]
    tables = [
        pq.read_table(folder / "samples" / "epoch_0000.parquet")
        for folder in (looks.folder, tmp_path)
    ]
    assert tables[0].equals(tables[1])


def test_the_seed_decides(small_config: RunConfig, tmp_path: Path) -> None:
    first, again, other = (
        run(small_config, tmp_path / name, train__epochs=1, train__seed=seed)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert same(first, again)
    assert not same(first, other)


@pytest.fixture(scope="module")
def three_epochs(shared_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run of three epochs, each with a checkpoint."""
    config, folder = override(shared_config, {"train.epochs": 3}), tmp_path_factory.mktemp("three")
    return Whole(config, folder, run(config, folder))


@pytest.mark.parametrize("damage", ["cut", "flipped", "no checksum"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    three_epochs: Whole, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(three_epochs.folder, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "epoch_0002"
    content = (newest / "state.pt").read_bytes()
    if damage == "cut":
        (newest / "state.pt").write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        changed = bytes([content[middle] ^ 1])
        (newest / "state.pt").write_bytes(content[:middle] + changed + content[middle + 1 :])
    else:
        (newest / "state.sha256").unlink()
    assert same(three_epochs.weights, run(three_epochs.config, tmp_path))
    assert "epoch_0002 is damaged" in capsys.readouterr().out
    assert [line["epoch"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2]


def test_a_checkpoint_of_another_model_is_refused(small_config: RunConfig, tmp_path: Path) -> None:
    run(small_config, tmp_path, train__epochs=1)
    wider = small_config.model.kwargs | {"channels": [8, 24]}
    other = {"model.kwargs": wider, "train.epochs": 2}
    with pytest.raises(UserError, match="does not fit"):
        train(override(small_config, other), LocalSession(tmp_path, CPU))


def test_a_loss_that_is_not_finite_stops_the_run_and_the_checkpoint_stays(
    small_config: RunConfig, tmp_path: Path
) -> None:
    run(small_config, tmp_path, train__epochs=1)
    with pytest.raises(UserError, match=r"not finite at epoch 1, step \d, rank 0"):
        run(small_config, tmp_path, train__epochs=2, optim__lr=1e30)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["epoch_0000"]


def test_accumulation_sees_the_same_gradient(small_config: RunConfig, tmp_path: Path) -> None:
    """Without batch statistics (an MLP) micro-batches change nothing but the rounding.

    Under L2, whose steps do not turn a rounding into the other sign.
    """
    settings = {
        "model__name": "mlp",
        "model__kwargs": {},
        "threat__norm": "L2",
        "method__name": "trades",
        "train__epochs": 1,
    }
    whole = run(small_config, tmp_path / "whole", **settings)
    parts = run(small_config, tmp_path / "parts", train__micro_batch_size=10, **settings)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4)


def test_every_switch_of_the_loop_runs(small_config: RunConfig, tmp_path: Path) -> None:
    run(
        small_config,
        tmp_path,
        train__epochs=1,
        train__precision="bf16",
        train__label_smoothing=0.1,
        train__clip_grad_norm=1.0,
        train__ema_decay=0.99,
        optim__schedule="one-cycle",
        optim__warmup_epochs=0.5,
        data__augment=["crop-1", "flip", "cutmix"],
        data__balance=True,
    )
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_a_set_smaller_than_a_batch_trains(small_config: RunConfig, tmp_path: Path) -> None:
    run(small_config, tmp_path, data__limit=30, data__val_fraction=0.0, train__epochs=1)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["step"] == 1
    assert line["validation_robust_accuracy"] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method.name": "hat"}, "method.standard_model"),
        ({"method.name": "hat", "method.standard_model": "nowhere"}, "nowhere"),
        ({"method.name": "deep_defense"}, "model.init_from"),
        ({"method.name": "uad_at", "train.compile": True}, "train.compile"),
        (DEEPER | {"train.micro_batch_size": 1}, "two samples"),
        (DEEPER | {"train.batch_size": 5, "cluster.workers": 3}, "train.batch_size to 6"),
    ],
)
def test_what_a_method_or_model_lacks_is_said_before_training(
    small_config: RunConfig, settings: dict[str, Any], words: str
) -> None:
    config = override(small_config, settings)
    with pytest.raises(UserError, match=words):
        check_run(config, load_info(config.data.path))


def test_an_unknown_optimiser_is_named(small_config: RunConfig, tmp_path: Path) -> None:
    changed = dataclasses.replace(
        small_config, optim=dataclasses.replace(small_config.optim, name="sgdd")
    )
    with pytest.raises(UserError, match="sgd"):
        train(changed, LocalSession(tmp_path, CPU))
