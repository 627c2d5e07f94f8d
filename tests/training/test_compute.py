"""Runs that end when their compute is spent: where they end, what follows, how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import torch

from dynat_ray.config import OptimConfig, RunConfig
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training import checkpoint, trainer
from dynat_ray.training.equal_compute import check_compute, pgd_at_compute
from dynat_ray.training.final_models import is_trained
from dynat_ray.training.how_far import HowFar
from dynat_ray.training.optimisation import learning_rate
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
from tests.processes import run_side_by_side
from tests.training.stopped_session import Stopped, StopsAfterReports
from tests.training.test_two_workers import _train_all

CPU = torch.device("cpu")
# 90 training images in batches of 24 and a last one of 18.
IMAGES, SIZE = 90, 24
# An attack of three steps, and the outer pass.
PGD_AT = 3 * 2 + 3


@pytest.fixture
def small_config(small_config: RunConfig) -> RunConfig:
    """The usual one in smaller batches."""
    return override(small_config, {"train.batch_size": SIZE})


def run(config: RunConfig, folder: Path, **settings: Any) -> list[dict[str, Any]]:
    """Trains in `folder`; returns the lines of its metrics."""
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    train(override(config, keys), LocalSession(folder, CPU))
    return read_metrics(folder / "metrics.jsonl")


class Whole(NamedTuple):
    """A run that was never killed, and the lines of its metrics."""

    config: RunConfig
    folder: Path
    lines: list[dict[str, Any]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "model_last").state_dict()


def same(one: Path, other: Path) -> bool:
    found = weights(other)
    return all(torch.equal(value, found[name]) for name, value in weights(one).items())


def test_units_are_cumulative_and_per_training_image(
    small_config: RunConfig, tmp_path: Path
) -> None:
    lines = run(small_config, tmp_path, method__name="pgd_at")
    assert [line["forward_units"] for line in lines] == [PGD_AT, 2 * PGD_AT]
    assert [line["epochs_done"] for line in lines] == [1.0, 2.0]
    assert [line["passes_per_sample"] for line in lines] == [3.0, 3.0]


def test_a_run_ends_on_the_step_that_spends_the_last_unit(
    small_config: RunConfig, tmp_path: Path
) -> None:
    # Of the second epoch two steps are needed, and of the third of them a part: three are made.
    compute = PGD_AT * (1 + (SIZE + SIZE + 5) / IMAGES)
    lines = run(small_config, tmp_path, method__name="pgd_at", train__compute=compute)
    assert [line["step"] for line in lines] == [4, 7]
    assert lines[-1]["epochs_done"] == 1.75
    assert lines[-1]["forward_units"] == PGD_AT * (1 + 3 * SIZE / IMAGES)
    assert lines[-1]["validation_robust_accuracy"] is not None
    # The samples of the last epoch are those that it saw.
    rows = [
        len(pq.read_table(tmp_path / "samples" / f"epoch_{epoch:04d}.parquet"))
        for epoch in range(2)
    ]
    assert rows == [IMAGES, 3 * SIZE]
    assert is_trained(tmp_path, RunLength(compute, by_compute=True))
    assert not is_trained(tmp_path, RunLength(2 * compute, by_compute=True))
    # Where it is over, it stays so.
    assert run(small_config, tmp_path, method__name="pgd_at", train__compute=compute) == lines


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attack__first_steps": 1, "train__epochs": 3},
        {"attack__steps": 1, "train__awp_gamma": 0.01, "train__awp_warmup_epochs": 1},
        {"threat__eps": 0.0},
        {"data__limit": 49, "data__val_fraction": 0.0},
    ],
)
def test_what_pgd_at_spends_is_known_before(
    small_config: RunConfig, tmp_path: Path, settings: dict[str, Any]
) -> None:
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    config = override(small_config, keys | {"method.name": "pgd_at", "cluster.workers": 1})
    compute = pgd_at_compute(config)
    by_epochs = run(config, tmp_path / "epochs")
    assert by_epochs[-1]["forward_units"] == pytest.approx(compute, abs=1e-9)
    if "attack__first_steps" in settings:
        return
    # And with so much it ends with the last of these epochs.
    by_compute = run(config, tmp_path / "compute", train__compute=compute)
    assert [line["step"] for line in by_compute] == [line["step"] for line in by_epochs]


def test_with_a_constant_cost_compute_and_epochs_are_the_same_run(
    small_config: RunConfig, tmp_path: Path
) -> None:
    settings = {"method__name": "gairat", "optim__schedule": "cosine", "optim__warmup_epochs": 0.5}
    # Batches of one size, so that every step is the same part of both.
    settings |= {"method__start": 0.5, "method__start_accuracy": 0.0, "train__batch_size": 30}
    run(small_config, tmp_path / "epochs", **settings)
    run(small_config, tmp_path / "compute", train__compute=2.0 * PGD_AT, **settings)
    for one, other in zip(
        read_metrics(tmp_path / "epochs" / "metrics.jsonl"),
        read_metrics(tmp_path / "compute" / "metrics.jsonl"),
        strict=True,
    ):
        assert other["learning_rate"] == pytest.approx(one["learning_rate"])
        assert other["loss"] == pytest.approx(one["loss"], rel=0.02)


@pytest.fixture(scope="module")
def whole(shared_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run of steps that cost more and more; nobody changes its folder."""
    settings = {
        "train.compute": 12.0,
        "train.batch_size": 12,
        "train.checkpoint_minutes": 1e-9,
        "train.ema_decay": 0.9,
        "optim.schedule": "one-cycle",
        "attack.first_steps": 1,
        "attack.growth": 1.0,
    }
    config, folder = override(shared_config, settings), tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 2)
        return Whole(config, folder, run(config, folder))


@pytest.mark.parametrize("reports", [1, 2, 4, 6])
def test_a_run_that_is_killed_goes_on_exactly(
    whole: Whole, tmp_path: Path, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_STEPS_BETWEEN_LOOKS", 2)
    assert whole.lines[-1]["epochs_done"] > 2
    with pytest.raises(Stopped):
        train(whole.config, StopsAfterReports(tmp_path, reports))
    resumed = run(whole.config, tmp_path)
    assert same(whole.folder, tmp_path)
    for key in ("epoch", "step", "forward_units", "epochs_done", "loss", "learning_rate"):
        assert [line[key] for line in resumed] == [line[key] for line in whole.lines], key


def test_what_follows_the_run_reaches_its_end(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates fall to 0, steps and images grow to their whole, whatever an epoch costs."""
    rates: list[float] = []
    sides: list[int] = []
    set_rate, shrunk = trainer.set_learning_rate, trainer.shrunk
    monkeypatch.setattr(
        trainer, "set_learning_rate", lambda opt, rate: rates.append(rate) or set_rate(opt, rate)
    )

    def seen(*given: Any) -> Any:
        batch = shrunk(*given)
        sides.append(batch.images.shape[2])
        return batch

    monkeypatch.setattr(trainer, "shrunk", seen)
    lines = run(
        small_config,
        tmp_path,
        train__compute=25.0,
        optim__schedule="cosine",
        attack__first_steps=1,
        data__first_image_size=4,
    )
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.01
    assert sides[0] == 4
    assert sides[-1] == 8
    assert sides == sorted(sides)
    assert lines[0]["mean_attack_steps"] == 1
    assert lines[-1]["mean_attack_steps"] > 1.5


def test_a_warm_up_in_epochs_ends_where_they_do() -> None:
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_epochs=2)
    length = RunLength(100, by_compute=True)
    # An epoch costs ten units.
    rates = [learning_rate(config, HowFar.at(length, each, 10 * each)) for each in range(11)]
    by_epochs = [learning_rate(config, HowFar.at(RunLength(10), each, 0.0)) for each in range(11)]
    assert rates == pytest.approx(by_epochs)


def test_two_workers_spend_what_one_does(digits: Path, tmp_path: Path) -> None:
    from dynat_ray.settings import build_config
    from tests.training.test_two_workers import COMPARABLE

    base = {
        "data.path": str(digits),
        "data.limit": 120,
        "data.val_fraction": 0.1,
        "data.loader": "memory",
        "attack.steps": 3,
        "optim.lr": 0.02,
        "optim.schedule": "cosine",
    }
    runs = {}
    for name in ("pgd_at", "dynat"):
        config = build_config([base, COMPARABLE, {"method.name": name, "train.compute": 15.0}])
        runs[name] = (config, tmp_path / "two" / name)
    run_side_by_side(_train_all, runs, str(tmp_path / "meeting"), processes=2)
    for name, (config, folder) in runs.items():
        alone = run(config, tmp_path / "one" / name)[-1]
        together = read_metrics(folder / "metrics.jsonl")[-1]
        assert together["workers"] == 2
        assert together["step"] == alone["step"]
        # A rounding may decide when a sample's attack stops.
        assert together["forward_units"] == pytest.approx(alone["forward_units"], rel=1e-3)


@pytest.mark.parametrize("compute", [0.01, 0.5])
def test_less_than_a_step_is_refused_before(small_config: RunConfig, compute: float) -> None:
    """Whatever the method, a step takes a forward and a backward pass of 24 images of 90."""
    with pytest.raises(UserError, match=r"train.compute is .*, less than one step: .* 0\.8 "):
        check_compute(override(small_config, {"train.compute": compute}))


def test_less_than_a_step_of_the_method_is_refused_after_it(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config = override(small_config, {"train.compute": 1.0, "method.name": "pgd_at"})
    check_compute(config)
    with pytest.raises(UserError, match=r"train.compute is 1, less than one step: .* 2\.4 "):
        train(config, LocalSession(tmp_path, CPU))
