"""TensorBoard, W&B without a network, and MLflow with a server on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynat_ray.config import RunConfig
from dynat_ray.settings import override
from dynat_ray.storage.links import refuse_links
from dynat_ray.storage.metrics import write_metrics
from dynat_ray.tracking import feed
from dynat_ray.tracking.feed import STATE
from dynat_ray.tracking.run_trackers import group_trackers, run_trackers
from tests.small_run import SMALL

_SECONDS_TO_START = 600
_SECONDS_BETWEEN_TRIES = 0.1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "group" / "runs" / "one"
    run.mkdir(parents=True)
    (run / "report.html").write_text("<html>")
    return run


def follow(config: RunConfig, folder: Path) -> None:
    """Tells of two epochs as two commands do, of which the first was stopped."""
    write_metrics(folder / "metrics.jsonl", {"epoch": 0, "loss": 2.0})
    run_trackers(config, folder).end("stopped")
    write_metrics(folder / "metrics.jsonl", {"epoch": 1, "loss": 1.0})
    run_trackers(config, folder).end("finished", {"best/clean": 90.0}, ["report.html"])


def test_tensorboard_has_epochs_and_results(small_config: RunConfig, folder: Path) -> None:
    follow(small_config, folder)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 2.0), (1, 1.0)]
    assert [e.value for e in events.Scalars("best/clean")] == [90.0]


def test_tensorboard_shows_an_epoch_once_when_the_state_is_lost(
    small_config: RunConfig, folder: Path
) -> None:
    for _ in range(2):
        write_metrics(folder / "metrics.jsonl", {"epoch": 0, "loss": 2.0})
        run_trackers(small_config, folder).end("stopped")
        (folder / STATE).unlink()
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 2.0)]


def test_a_file_in_the_place_of_its_folder_ends_nothing(
    small_config: RunConfig, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tensorboard").write_text("")
    follow(small_config, folder)
    assert "is a file" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_wandb_offline_keeps_what_it_will_send(
    small_config: RunConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    follow(override(small_config, {"train.trackers": ["wandb"]}), folder)
    first, second = sorted((folder / "wandb").glob("offline-run-*"))
    ((one,), (two,)) = (part.glob("*.wandb") for part in (first, second))
    # One run of two parts, which `wandb sync` joins.
    assert one.name == two.name
    assert b"report.html" in two.read_bytes()
    refuse_links(folder)


def lose(*_: object, **__: object) -> None:
    raise ConnectionError


@pytest.fixture
def mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if find_spec("mlflow") is None or find_spec("alembic") is None:
        pytest.skip("needs mlflow with its server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--backend-store-uri", f"sqlite:///{tmp_path}/runs.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    # Four processes that wait for jobs which nobody sends.
    quiet["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    address = f"http://127.0.0.1:{port}"
    log = (tmp_path / "server.log").open("w")
    with log, subprocess.Popen(command, env=quiet, stdout=log, stderr=log) as server:
        try:
            for _ in range(int(_SECONDS_TO_START / _SECONDS_BETWEEN_TRIES)):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=2)
                    break
                except OSError:
                    assert server.poll() is None, (tmp_path / "server.log").read_text()
                    time.sleep(_SECONDS_BETWEEN_TRIES)
            else:
                pytest.fail("the server of MLflow did not start")
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            yield address
        finally:
            server.terminate()


def test_mlflow_has_parameters_metrics_and_files(
    small_config: RunConfig, folder: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    config = override(small_config, {"train.trackers": ["mlflow"]})
    group_trackers("search", config, folder.parents[1], {"space.train.epochs": "1 to 3"})
    client = MlflowClient(mlflow_server)
    monkeypatch.setattr(feed, "_SECONDS_BETWEEN_TRIES", 0.0)
    with monkeypatch.context() as away:
        # The server has the run, but none of its parameters arrives.
        away.setattr(MlflowClient, "log_batch", lose)
        trackers = run_trackers(config, folder)
        trackers.catch_up()
    write_metrics(folder / "metrics.jsonl", {"epoch": 0, "loss": 2.0})
    trackers.end("stopped")
    # Who was killed before it was written down that the server has the epoch sends it again.
    state = json.loads((folder / STATE).read_text())
    state["mlflow"]["epoch"] = -1
    (folder / STATE).write_text(json.dumps(state))
    follow(config, folder)

    experiment = client.get_experiment_by_name("dynat-ray")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert runs.keys() == {"one", "group"}
    one = runs["one"]
    assert one.data.tags["mlflow.parentRunId"] == runs["group"].info.run_id
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= one.data.tags.keys()
    assert one.info.status == "FINISHED"
    assert one.data.params["train.epochs"] == str(SMALL["train.epochs"])
    history = client.get_metric_history(one.info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(0, 2.0), (1, 1.0)]
    assert one.data.metrics["best/clean"] == 90.0
    assert [file.path for file in client.list_artifacts(one.info.run_id)] == ["report.html"]
