"""Rows of samples are written while training goes on, and belong to the checkpoint after them."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import override
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training import epoch_validation, telemetry
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

CPU = torch.device("cpu")


def samples(folder: Path) -> dict[str, Any]:
    """Returns the rows of every epoch whose file is whole."""
    files = sorted((folder / "samples").glob("*.parquet"))
    return {file.name: pq.read_table(file).to_pylist() for file in files}


def names(folder: Path) -> list[str]:
    return [each.name for each in LocalSession(folder, CPU).checkpoints()]


def test_training_goes_on_meanwhile_and_its_checkpoint_waits(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row of the first epoch is written until the second one's steps are done."""
    disk, there = threading.Event(), []
    write, validate = telemetry.EpochRecord.write, epoch_validation.validate

    def slow(self: telemetry.EpochRecord, file: Path, training_samples: int) -> None:
        assert disk.wait(60)
        write(self, file, training_samples)

    def look(*given: Any) -> Any:
        there.append((list(samples(tmp_path)), names(tmp_path)))
        if len(there) == 2:
            disk.set()
        return validate(*given)

    monkeypatch.setattr(telemetry.EpochRecord, "write", slow)
    monkeypatch.setattr(epoch_validation, "validate", look)
    train(override(small_config, {"train.epochs": 2}), LocalSession(tmp_path, CPU))
    # Neither rows nor checkpoint: a run that dies now does the epoch again.
    assert there == [([], []), ([], [])]
    assert list(samples(tmp_path)) == ["epoch_0000.parquet", "epoch_0001.parquet"]
    assert names(tmp_path) == ["epoch_0001", "epoch_0000"]


@pytest.mark.parametrize("checkpoint_epochs", [1, 3])
def test_rows_that_can_not_be_written_end_the_run_which_goes_on_exactly(
    small_config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint_epochs: int,
) -> None:
    config = override(
        small_config, {"train.epochs": 3, "train.checkpoint_epochs": checkpoint_epochs}
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, LocalSession(whole, CPU))
    write = telemetry.EpochRecord.write

    def full(self: telemetry.EpochRecord, file: Path, training_samples: int) -> None:
        if file.name == "epoch_0001.parquet":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, file, training_samples)

    with monkeypatch.context() as patch:
        patch.setattr(telemetry.EpochRecord, "write", full)
        with pytest.raises(
            UserError, match=r"parts can't be written: .*No space left on device; f"
        ):
            train(config, LocalSession(parts, CPU))
    assert names(parts) == (["epoch_0000"] if checkpoint_epochs == 1 else [])
    assert "epoch_0001.parquet" not in samples(parts)
    train(config, LocalSession(parts, CPU))
    assert samples(parts) == samples(whole)
    losses = [[line["loss"] for line in read_metrics(f / "metrics.jsonl")] for f in (whole, parts)]
    assert losses[0] == losses[1]


def test_files_are_sent_while_training_goes_on_and_before_their_checkpoint(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store takes nothing of the first epoch until the second one's steps are done."""
    store, sent, there = threading.Event(), [], []

    class Mirrored(LocalSession):
        def files_kept(self) -> None:
            assert store.wait(60)
            sent.append((list(samples(tmp_path)), names(tmp_path)))

    validate = epoch_validation.validate

    def look(*given: Any) -> Any:
        there.append((list(sent), names(tmp_path)))
        if len(there) == 2:
            store.set()
        return validate(*given)

    monkeypatch.setattr(epoch_validation, "validate", look)
    train(override(small_config, {"train.epochs": 2}), Mirrored(tmp_path, CPU))
    assert there == [([], []), ([], [])]
    first, second = "epoch_0000.parquet", "epoch_0001.parquet"
    assert sent[0][0][0] == first
    assert sent[0][1] == []
    assert sent[1] == ([first, second], ["epoch_0000"])
