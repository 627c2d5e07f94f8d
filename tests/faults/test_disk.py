"""The disk fills while a checkpoint is written: the one before it stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dynat_ray.config import RunConfig
from dynat_ray.models import load_model
from dynat_ray.settings import dump_config, override
from dynat_ray.training.checkpoint import read_checkpoint
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
from tests.processes import run_python
from tests.small_run import DEEPER

CPU = torch.device("cpu")
# Larger than metrics and samples, smaller than a checkpoint.
_MOST_BYTES = 100_000
# A limit on the size of files acts like a full disk, and needs no rights.
PROGRAM = """
import resource, signal, sys, torch
from pathlib import Path
from dynat_ray.cli import run
from dynat_ray.training.trainer import train
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.training.session import LocalSession

def main(arguments):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(arguments[1]), -1))
    torch.set_num_threads(1)
    folder = Path(arguments[0])
    train(read_run_config(folder), LocalSession(folder, torch.device("cpu")))
    return folder

run(main)
"""


@pytest.fixture
def config(small_config: RunConfig) -> RunConfig:
    return override(small_config, DEEPER | {"train.epochs": 2})


def test_the_checkpoint_before_stays_whole_and_the_run_goes_on(
    config: RunConfig, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, LocalSession(whole, CPU))
    train(override(config, {"train.epochs": 1}), LocalSession(parts, CPU))
    (parts / "config.yaml").write_text(dump_config(config))
    before = parts / "checkpoints" / "epoch_0000"
    assert (before / "state.pt").stat().st_size > _MOST_BYTES
    done = run_python("-c", PROGRAM, str(parts), str(_MOST_BYTES))
    print(done.stderr)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: a checkpoint can't be written to ")
    assert "--resume" in line
    assert [folder.name for folder in LocalSession(parts, CPU).checkpoints()] == ["epoch_0000"]
    assert read_checkpoint(before) is not None
    train(config, LocalSession(parts, CPU))
    one, other = (load_model(folder / "model_last").state_dict() for folder in (whole, parts))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
