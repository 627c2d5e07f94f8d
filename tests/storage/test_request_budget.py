"""How many requests a run on S3 makes, an epoch and a start: stores charge for each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest
import ray.train
import torch
from moto.server import ThreadedMotoServer

from dynat_ray.config import RunConfig
from dynat_ray.distributed import worker
from dynat_ray.settings import override
from dynat_ray.storage.mirror import Mirror
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import Notice
from dynat_ray.training.trainer import train

# 8 for each of 3 files (metrics, samples, events), and some for a part more.
PER_EPOCH = 32
# Of the first worker: a list, 4 for each file but samples, and the checkpoint once.
OF_A_START = 40
# Of any other: a list and the settings.
OF_ANY_OTHER = 4


@pytest.fixture
def requests(server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Method and path of each request to the server."""
    made: list[str] = []
    answer = server._server.app  # type: ignore[union-attr]

    def counted(environment: dict[str, str], start: Any) -> Any:
        made.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
        return answer(environment, start)

    monkeypatch.setattr(server._server, "app", counted)
    return made


def start(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> worker.RaySession:
    """Returns the session of a first worker, once it has fetched what it needs of the run.

    It has no Ray; checkpoints are sent as Ray Train sends them.
    """
    mirror = Mirror(folder, address)
    store, root = mirror.train_storage()

    def report(metrics: Any, *, checkpoint: Any, checkpoint_dir_name: str, **how: Any) -> None:
        if checkpoint is not None:
            target = f"{root}/checkpoints/{checkpoint_dir_name}"
            store.create_dir(target)
            here = pyarrow.fs.LocalFileSystem()
            pyarrow.fs.copy_files(
                checkpoint.path, target, source_filesystem=here, destination_filesystem=store
            )

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    train = SimpleNamespace(
        get_context=lambda: context,
        torch=SimpleNamespace(get_device=lambda: torch.device("cpu")),
        report=report,
        Checkpoint=ray.train.Checkpoint,
    )
    node = SimpleNamespace(get_node_id=lambda: "node")
    util = SimpleNamespace(get_node_ip_address=lambda: "here")
    standin = SimpleNamespace(train=train, util=util, get_runtime_context=lambda: node)
    monkeypatch.setattr(worker, "ray", standin)
    monkeypatch.setattr(worker, "current_group", lambda: "group")
    notices = SimpleNamespace(poll=lambda: Notice.NOTHING, saved=lambda: None)
    monkeypatch.setattr(worker, "WorkerNotices", lambda *_: notices)
    mirror.pull(leave=("samples", "model", "model_last"))
    return worker.RaySession(folder, mirror, SimpleNamespace())  # type: ignore[arg-type]


def test_an_epoch_and_a_start_make_few_requests(
    small_config: RunConfig,
    bucket: str,
    tmp_path: Path,
    requests: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = f"{bucket}/one"
    made = {}
    for epochs in (1, 3):
        config = override(small_config, {"train.epochs": epochs, "data.limit": 100})
        folder = tmp_path / f"{epochs}"
        open_run_folder(folder, config, resume=True)
        requests.clear()
        train(config, start(folder, f"{address}-{epochs}", monkeypatch))
        made[epochs] = list(requests)
    per_epoch = (len(made[3]) - len(made[1])) / 2
    assert 8 <= per_epoch <= PER_EPOCH, made[3]
    # A start after it, on another machine.
    requests.clear()
    session = start(tmp_path / "again", f"{address}-3", monkeypatch)
    assert next(iter(session.checkpoints())).name == "epoch_0002"
    assert len(requests) <= OF_A_START, requests
    assert not [each for each in requests if "samples/" in each]
    requests.clear()
    Mirror(tmp_path / "other", f"{address}-3").pull(only=("config.yaml",))
    assert 0 < len(requests) <= OF_ANY_OTHER, requests


def test_a_large_file_is_not_fetched_in_crumbs(
    bucket: str, tmp_path: Path, requests: list[str]
) -> None:
    here, there = (Mirror(tmp_path / name, f"{bucket}/large") for name in ("here", "there"))
    here.folder.mkdir()
    (here.folder / "model.bin").write_bytes(b"x" * 48 * 2**20)
    here.push()
    requests.clear()
    there.pull()
    assert (there.folder / "model.bin").stat().st_size == 48 * 2**20
    assert len([each for each in requests if each.startswith("GET")]) <= 4, requests
