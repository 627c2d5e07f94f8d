"""A disk of its own, for a moment, that fills while a run on Ray writes its checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynat_ray.storage.metrics import read_metrics
from dynat_ray.training.checkpoint import read_checkpoint
from tests.faults.jobs import tell, wait_until

pytestmark = pytest.mark.faults

_SIZE = "64m"
# Room for an epoch's metrics and samples, not for a checkpoint.
_LEFT = 200_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Writes a file that leaves `_LEFT` bytes on the disk."""
    file = disk / "filler"
    with pytest.raises(OSError, match="No space left"), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))

    os.truncate(file, file.stat().st_size - _LEFT)
    return file


def test_the_checkpoint_before_stays_whole_and_the_error_is_plain(disk: Path) -> None:
    command = [
        *(sys.executable, "-m", "dynat_ray.train", "--out", str(disk), "--name", "one", "--resume"),
        *("--train.epochs", "4", "--eval.attacks", "clean", "--cluster.max_failures", "0"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=disk
    )
    checkpoints = disk / "one" / "checkpoints"
    wait_until((checkpoints / "epoch_0000" / "state.sha256").exists, "the first checkpoint")
    filler = fill(disk)
    _, errors = process.communicate()
    tell("the disk filled after the first epoch:", errors.strip())
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ")
    assert "space" in line
    assert "--resume" in line
    whole = [folder for folder in checkpoints.glob("epoch_*") if read_checkpoint(folder)]
    assert whole
    filler.unlink()
    done = subprocess.run(command, capture_output=True, text=True, cwd=disk, check=False)
    assert done.returncode == 0, done.stderr
    lines = read_metrics(disk / "one" / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    tell("with room again it went on from", *sorted(folder.name for folder in whole))
