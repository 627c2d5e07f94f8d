"""What is left beside a data set that was not finished: nothing, or nothing for long."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from dynat_ray.data import load_info
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.data.preparing.work_folder import work_folder
from tests.data.conftest import WriteFolder
from tests.processes import start_python

SLOW = """
import runpy, sys, time
from dynat_ray.data.preparing import dataset
mark = dataset.mark
def slow(pixels):
    time.sleep(0.3)
    return mark(pixels)
dataset.mark = slow
sys.argv = ["prepare", "folder:pets", "--out", "out"]
runpy.run_module("dynat_ray.prepare", run_name="__main__", alter_sys=True)
"""


def begun(folder: Path) -> Path:
    """Waits until a preparer has stored something; returns its folder."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        for found in folder.glob(".out-*/data/test.safetensors"):
            return found.parents[1]
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_preparer_that_is_stopped_leaves_nothing(
    number: int, write_folder: WriteFolder, tmp_path: Path
) -> None:
    write_folder(train=100, test=1)
    said = tmp_path / "stdout", tmp_path / "stderr"
    process = start_python("-c", SLOW, cwd=tmp_path, said=said)
    begun(tmp_path)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode == 128 + number
    assert said[1].read_text().splitlines()[-1].endswith("stopped")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "stderr", "stdout"]


def test_the_next_one_removes_what_a_dead_one_left(
    write_folder: WriteFolder, tmp_path: Path
) -> None:
    root = write_folder(train=100, test=1)
    process = start_python("-c", SLOW, cwd=tmp_path)
    left = begun(tmp_path)
    other = tmp_path / ".out-of mine"
    other.mkdir()
    with work_folder(tmp_path / "out"):
        assert left.exists(), "its owner lives"
    process.kill()
    process.join()
    assert left.exists()
    prepare_dataset(f"folder:{root}", tmp_path / "out", progress=False)
    assert load_info(tmp_path / "out").counts["train"] == 300
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-of mine", "out", "pets"]
