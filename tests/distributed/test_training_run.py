"""Whole runs through Ray Train with two workers, on one local Ray."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

import dynat_ray
from dynat_ray.config import RunConfig
from dynat_ray.distributed import training_run
from dynat_ray.distributed.evaluator import Workers
from dynat_ray.distributed.training_run import run
from dynat_ray.errors import UserError
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import read_run_config
from tests.distributed.watching import LOOPBACK, listening
from tests.processes import run_side_by_side
from tests.training.test_two_workers import _train_all

EVALUATION = {"eval.attacks": ["clean", "pgd-5", "apgd-t"], "eval.samples": 20}


pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "whole"


def changed(config: RunConfig, **settings: object) -> RunConfig:
    keys = {key.replace("__", "."): value for key, value in settings.items()}
    return override(config, EVALUATION | keys)


def test_a_run_in_two_parts_from_settings_to_report(
    small_config: RunConfig, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        # Its table and its page are not what is looked at: others come in their place. Workers for
        # them take seconds to start, figures as long to draw.
        patch.setattr(training_run, "cluster_workers", lambda *_: Workers(1, on_ray=False))
        patch.setattr(training_run, "write_report", lambda folder: None)
        run(changed(small_config, train__epochs=1, eval__attacks=["clean", "pgd-5"]), whole)
        assert not (whole / "report.html").exists()
    with pytest.raises(UserError, match="--resume"):
        run(changed(small_config, train__epochs=2), whole)
    with listening("RayTrainWorker") as places:
        results = run(changed(small_config, train__epochs=2), whole, resume=True)
    output = capfd.readouterr()
    assert signal.getsignal(signal.SIGINT) is interrupt, "Ctrl-C would mean what Ray makes of it"
    assert [line["epoch"] for line in read_metrics(whole / "metrics.jsonl")] == [0, 1]
    assert output.out.count("epoch ") >= 2
    assert "loader memory" in output.out
    for noise in ("ray::", "core_worker", "INFO", "Reporting training result"):
        assert noise not in output.out + output.err
    for table in (results["best"], results["last"]):
        assert table["clean"]["samples"] == 359
        assert table["apgd-t"]["samples"] == 20
        assert 0 <= table["pgd-5"]["accuracy"] <= table["clean"]["accuracy"] <= 100
    assert json.loads((whole / "results.json").read_text()) == results
    environment = json.loads((whole / "environment.json").read_text())
    assert environment["versions"]["ray"]
    assert environment["loader"] == "memory"
    assert "<html" in (whole / "report.html").read_text()
    assert (whole / "checkpoints" / "epoch_0001" / "state.pt").exists()
    images, labels = dynat_ray.data.load_test_images(read_run_config(whole).data.path)
    model = dynat_ray.load_model(whole)
    with torch.no_grad():
        accuracy = 100 * float((model(images).argmax(dim=1) == labels).float().mean())
    assert accuracy == pytest.approx(results["best"]["clean"]["accuracy"], abs=0.3)
    # Each has a port for Ray, and those for the other worker.
    assert len(places) == 2
    assert min(map(len, places.values())) > 1
    assert [each for each in set().union(*places.values()) if not each.startswith(LOOPBACK)] == []


def test_one_and_one_epoch_on_two_workers_equal_two(
    small_config: RunConfig, whole: Path, tmp_path: Path
) -> None:
    """And what Ray does of them equals what two processes do without."""
    plain = {"plain": (changed(small_config, train__epochs=2), tmp_path / "plain")}
    run_side_by_side(_train_all, plain, str(tmp_path / "meeting"), processes=2)
    one, other = (
        dynat_ray.load_model(folder / "model_last").state_dict()
        for folder in (whole, tmp_path / "plain")
    )
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_a_finished_run_is_not_trained_again(
    small_config: RunConfig,
    whole: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The page is drawn again, as it was above.
    drawn: list[Path] = []
    monkeypatch.setattr(training_run, "write_report", drawn.append)
    before = (whole / "model" / "model.safetensors").stat().st_mtime
    run(changed(small_config, train__epochs=2), whole, resume=True)
    assert (whole / "model" / "model.safetensors").stat().st_mtime == before
    assert "epoch 2/2" not in capfd.readouterr().out
    assert drawn == [whole]


def test_settings_that_would_break_a_run_cannot_be_changed(
    small_config: RunConfig, whole: Path
) -> None:
    other = changed(small_config, train__epochs=2, method__name="trades")
    with pytest.raises(UserError, match=r"method\.name"):
        run(other, whole, resume=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cluster__workers": 99, "train__batch_size": 999}, "have room for 2"),
        ({"cluster__gpu": True, "cluster__workers": 2}, "GPU"),
        ({"model__name": "preact_resnet19"}, "preact_resnet18"),
        ({"optim__name": "sgdd"}, "sgd"),
        ({"data__augment": ["crup"]}, "crop"),
        ({"eval__attacks": ["pgd20"]}, "pgd"),
        ({"data__path": "nowhere"}, "nowhere"),
        ({"model__init_from": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_said_before_anything_starts(
    small_config: RunConfig, tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        run(changed(small_config, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()
