"""Validation beside training, through Ray: one worker trains, and one place validates."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch

from dynat_ray.config import RunConfig
from dynat_ray.distributed import training_run, validation_place
from dynat_ray.distributed.evaluator import Workers
from dynat_ray.distributed.ray_trainer import resolve_workers
from dynat_ray.distributed.training_run import run
from dynat_ray.distributed.validation_place import ValidationPlace
from dynat_ray.errors import UserError
from dynat_ray.models import load_model
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

pytestmark = pytest.mark.usefixtures("local_ray")

BESIDE = {"eval.beside": True, "cluster.workers": 1, "train.epochs": 3, "eval.attacks": ["clean"]}
VALIDATION = ("validation_clean_accuracy", "validation_robust_accuracy", "best")


def test_a_run_has_the_figures_and_the_model_of_one_process(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "cluster_workers", lambda *_: Workers(1, on_ray=False))
    config = override(small_config, BESIDE)
    run(config, tmp_path / "beside")
    train(
        override(config, {"eval.beside": False}),
        LocalSession(tmp_path / "one", torch.device("cpu")),
    )
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("beside", "one")]
    for name in VALIDATION:
        assert [each[name] for each in lines[0]] == [each[name] for each in lines[1]]
        assert None not in [each[name] for each in lines[0]]
    models = [load_model(tmp_path / name / "model").state_dict() for name in ("beside", "one")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_no_place_is_said_after_a_while(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(small_config, {"cluster.cpus_per_worker": 64})
    place = ValidationPlace(config, gpu=False)
    assert place.problem() == ""
    now = validation_place.time.monotonic()
    monkeypatch.setattr(validation_place.time, "monotonic", lambda: now + 60 * 30 + 1)
    assert "no machine had 64 CPUs free for validation in 30 minutes" in place.problem()


def test_a_place_that_was_found_and_lost_is_said_too(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ValidationPlace(override(small_config, {"eval.beside": True}), gpu=False)
    ray.get(place._probe, timeout=60)
    now = [validation_place.time.monotonic() + 60 * 60]
    monkeypatch.setattr(validation_place.time, "monotonic", lambda: now[0])
    # However long nobody asked, it is there.
    assert place.problem() == ""
    ray.kill(place._actor, no_restart=True)
    # Stands for what is asked of an actor that Ray starts again some time.
    monkeypatch.setattr(place, "_probe", ray.put(None))
    monkeypatch.setattr(validation_place.ray, "wait", lambda refs, timeout: ([], refs))
    now[0] += 60 * 29
    assert place.problem() == ""
    now[0] += 60 * 2
    assert "free for validation in 30 minutes" in place.problem()


def test_it_is_counted_among_what_a_run_needs(
    small_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynat_ray.distributed.ray_trainer.places", lambda *_: 4)
    monkeypatch.setattr("dynat_ray.distributed.capacity.places", lambda *_: 4)
    cluster = override(small_config, {"cluster.gpu": True, "cluster.workers": "auto"}).cluster
    assert resolve_workers(cluster).fewest == 4
    assert resolve_workers(cluster, beside=True).fewest == 3
    four = override(small_config, {"cluster.gpu": True, "cluster.workers": 4}).cluster
    with pytest.raises(UserError, match=r"5 workers .* \(one of them to validate: eval\.beside\)"):
        resolve_workers(four, beside=True)
