"""The power fails at every step of every write: a run is as before or as after, and goes on.

What was not brought to the disk is lost, in whole or in part (`tests/storage/failing_disk`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from dynat_ray import atomic_files
from dynat_ray.config import RunConfig
from dynat_ray.distributed.progress import add_note
from dynat_ray.evaluation.results import write_json
from dynat_ray.models import build_model, load_model, save_model
from dynat_ray.report.reading import read_run
from dynat_ray.searching.trial_records import Trial, read_trials, write_trial
from dynat_ray.settings import build_config, override
from dynat_ray.storage.environment import add_to_environment, read_environment
from dynat_ray.storage.metrics import read_metrics, write_metrics
from dynat_ray.storage.run_folder import open_run_folder, read_run_config
from dynat_ray.storage.run_length import RunLength
from dynat_ray.training.checkpoint import read_checkpoint, write_checkpoint
from dynat_ray.training.final_models import is_trained
from dynat_ray.training.session import LocalSession
from dynat_ray.training.telemetry import EpochRecord
from dynat_ray.training.trainer import train
from tests.storage.failing_disk import FailingDisk, PowerFailed

CPU = torch.device("cpu")
TINY = {
    "data.limit": 20,
    "data.val_fraction": 0.2,
    "attack.steps": 1,
    "eval.steps": 1,
    "model.name": "mlp",
    "model.kwargs": {},
    "train.batch_size": 16,
}
# Nothing that was not brought to the disk is there, or a part of it.
LEFT = (0.0, 0.6)


def failures(write: Callable[[], None], left: float, every: int = 1) -> Iterator[int]:
    """Lets the power fail before each operation of `write` in turn; yields after each failure."""
    for operation in range(1, 1000, every):
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(operation, left).install(patch)
            with suppress(PowerFailed):
                write()
        if not disk.failed:
            assert operation > 1
            return
        yield operation
    raise AssertionError("it never ended")


def write_config(folder: Path, version: int) -> None:
    config = build_config([{"data.path": "x", "train.epochs": 10 + version}])
    open_run_folder(folder, config, resume=True)


def write_samples(folder: Path, version: int) -> None:
    columns = {"index": np.arange(3), "label": np.full(3, version)}
    EpochRecord(columns, np.zeros(1), 0, 1.0, 0.0).write(folder / "samples" / "e.parquet", 3)


def read_samples(folder: Path) -> int:
    return int(pq.read_table(folder / "samples" / "e.parquet")["label"][0].as_py())


def write_model(folder: Path, version: int) -> None:
    model = build_model("lenet", num_classes=2, channels=1, size=(20, 20), mean=[0.5], std=[0.5])
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(version)
    save_model(model, folder / "model")


def read_model(folder: Path) -> int:
    (value,) = {float(p.detach().unique()) for p in load_model(folder).parameters()}
    return int(value)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def report_checkpoint(folder: Path, version: int, name: str = "") -> None:
    session = LocalSession(folder, CPU)
    new = atomic_files.unused_name(folder)
    write_checkpoint(new, {"version": version})
    session.report({}, name or f"epoch_{version:04d}", new)


def read_newest(folder: Path) -> int:
    states = [read_checkpoint(each) for each in LocalSession(folder, CPU).checkpoints()]
    assert None not in states
    return int(states[0]["version"])  # type: ignore[index]


ARTEFACTS: dict[str, tuple[Callable[[Path, int], Any], Callable[[Path], int]]] = {
    "config.yaml": (write_config, lambda folder: read_run_config(folder).train.epochs - 10),
    "environment.json": (
        lambda folder, version: add_to_environment(folder, {"version": version}),
        lambda folder: read_environment(folder)["version"],
    ),
    "metrics.jsonl": (
        lambda folder, version: write_metrics(folder / "metrics.jsonl", {"epoch": version}),
        lambda folder: read_metrics(folder / "metrics.jsonl")[-1]["epoch"],
    ),
    "notes.log": (
        lambda folder, version: add_note(folder, str(version)),
        lambda folder: int((folder / "notes.log").read_text().splitlines()[-1]),
    ),
    "samples": (write_samples, read_samples),
    "checkpoint": (report_checkpoint, read_newest),
    "the same checkpoint": (
        lambda folder, version: report_checkpoint(folder, version, "epoch_0000"),
        read_newest,
    ),
    "model": (write_model, read_model),
    "trial.json": (
        lambda folder, version: write_trial(folder, Trial(3, {"x": version})),
        lambda folder: read_trials(folder)[0].settings["x"],
    ),
    "results.json": (
        lambda folder, version: write_json(folder / "results.json", {"version": version}),
        lambda folder: json.loads((folder / "results.json").read_text())["version"],
    ),
}


def check_all_steps(name: str, left: float, tmp_path: Path) -> None:
    write, read = ARTEFACTS[name]
    before, folder = tmp_path / "before", tmp_path / "run"
    before.mkdir()
    write(before, 1)
    assert read(before) == 1
    shutil.copytree(before, folder)
    for operation in failures(lambda: write(folder, 2), left):
        assert read(folder) in (1, 2), operation
        write(folder, 2)
        assert read(folder) == 2, operation
        shutil.rmtree(folder)
        shutil.copytree(before, folder)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_every_file_is_as_before_or_as_after(name: str, left: float, tmp_path: Path) -> None:
    check_all_steps(name, left, tmp_path)


@pytest.mark.parametrize("left", LEFT)
def test_a_model_is_whole_where_names_can_not_be_swapped(
    left: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "_exchange", lambda *_: False)
    check_all_steps("model", left, tmp_path)


@pytest.mark.parametrize("left", LEFT)
def test_lines_that_are_done_again_are_old_or_new(left: float, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"

    def start() -> None:
        file.unlink(missing_ok=True)
        for epoch in range(3):
            write_metrics(file, {"epoch": epoch})

    start()
    again = {"epoch": 1, "again": True}
    for _ in failures(lambda: write_metrics(file, again), left):
        assert read_metrics(file) in (
            [{"epoch": epoch} for epoch in range(3)],
            [{"epoch": 0}, again],
        )
        start()


def test_a_first_file_that_was_cut_does_not_stand_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in failures(lambda: write_config(folder, 1), 0.5):
        if not (folder / "config.yaml").exists():
            open_run_folder(folder, build_config([{"data.path": "x"}]), resume=False)
        shutil.rmtree(folder)


@pytest.mark.parametrize("begun", [False, True], ids=["from nothing", "after an epoch"])
def test_a_run_goes_on_from_every_step(
    begun: bool, small_config: RunConfig, tmp_path: Path
) -> None:
    config = override(
        small_config,
        TINY | {"train.epochs": 2 if begun else 1},
    )
    whole, before, folder = (tmp_path / name for name in ("whole", "before", "run"))
    train(config, LocalSession(whole, CPU))
    LocalSession(before, CPU)
    if begun:
        train(override(config, {"train.epochs": 1}), LocalSession(before, CPU))
    shutil.copytree(before, folder)
    expected = {name: weights_in(whole / name) for name in ("model", "model_last")}
    # Most steps of a first epoch are those of any other.
    every = 1 if begun else 3
    for operation in failures(lambda: train(config, LocalSession(folder, CPU)), 0.5, every):
        if begun:
            load_model(folder)
        train(config, LocalSession(folder, CPU))
        lines = read_metrics(folder / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == list(range(2 if begun else 1)), operation
        assert is_trained(folder, RunLength.of(config.train))
        for name, weights in expected.items():
            found = weights_in(folder / name)
            assert all(torch.equal(value, found[key]) for key, value in weights.items()), operation
        shutil.rmtree(folder)
        shutil.copytree(before, folder)


def test_a_finished_run_of_which_any_one_file_was_cut_is_mended(
    small_config: RunConfig, tmp_path: Path
) -> None:
    config = override(small_config, TINY | {"train.epochs": 2})
    before, folder = tmp_path / "before", tmp_path / "run"
    open_run_folder(before, config, resume=False)
    train(config, LocalSession(before, CPU))
    add_to_environment(before, {"workers": "1"})
    (before / "results.json").write_text('{"best": {}, "last": {}}\n')
    expected = load_model(before / "model_last").state_dict()
    names = [path.relative_to(before) for path in before.rglob("*") if path.is_file()]
    assert len(names) > 10
    for name in names:
        if name.name in ("config.yaml", "metrics.jsonl") or name.parts[0] == "tensorboard":
            continue
        for part in (0, 2):
            shutil.copytree(before, folder)
            whole = (folder / name).read_bytes()
            (folder / name).write_bytes(whole[: len(whole) * part // 3])
            if not is_trained(folder, RunLength(2)):
                train(config, LocalSession(folder, CPU))
            assert is_trained(folder, RunLength(2))
            run = read_run(folder)
            assert [line["epoch"] for line in run.metrics] == [0, 1]
            assert run.last_samples()[0] in (0, 1)
            found = load_model(folder / "model_last").state_dict()
            assert all(torch.equal(value, found[key]) for key, value in expected.items()), name
            shutil.rmtree(folder)
