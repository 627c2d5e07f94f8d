"""The rehearsal at ImageNet's size, with few images and without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynat_ray import benchmark
from dynat_ray.benchmarks import epoch_memory, large_results, rehearsal
from dynat_ray.benchmarks.made_images import MadeSet, files_of, make_images
from dynat_ray.benchmarks.memory_watch import MemoryWatch
from dynat_ray.config import RunConfig
from dynat_ray.data.ffcv_library import ffcv_problem
from dynat_ray.distributed import training_run
from dynat_ray.errors import UserError
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

SMALL = MadeSet(train=24, test=6, classes=6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small images."""
    folder = tmp_path_factory.mktemp("sources")
    random = np.random.default_rng(0)
    for number in range(40):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def test_images_are_as_many_and_as_large_as_asked_and_the_same_each_time(
    sources: Path, tmp_path: Path
) -> None:
    assert make_images(sources, tmp_path / "one", SMALL) > 30 * 5000
    make_images(sources, tmp_path / "two", SMALL)
    contents = set()
    for split, each in (("train", 4), ("test", 1)):
        files = list(files_of(tmp_path / "one", split))
        assert [label for _, label in files] == [label for label in range(6) for _ in range(each)]
        for file, _ in files:
            with Image.open(file) as image:
                assert (min(image.size), image.format) == (256, "JPEG")
                assert max(image.size) <= 384
            again = tmp_path / "two" / file.relative_to(tmp_path / "one")
            assert again.read_bytes() == file.read_bytes()
            contents.add(file.read_bytes())
    assert len(contents) == 30


def test_sets_of_few_images_have_fewer_classes() -> None:
    assert MadeSet.of(200_000) == MadeSet(200_000, 8000, 1000)
    assert MadeSet.of(100) == MadeSet(100, 25, 25)


def test_memory_that_grows_is_seen() -> None:
    # Written to, since memory that nobody touches is not taken.
    code = (
        "a = b'a' * (8 << 20); print(flush=True); input(); "
        "b = b'b' * (24 << 20); print(flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with MemoryWatch(lambda: [process.pid, 2**22 + 1]) as watch:
            began = time.time()
            time.sleep(2)
            print(file=process.stdin, flush=True)
            process.stdout.readline()
            time.sleep(2)
            ended = time.time()
        process.kill()
    (found,) = watch.between(began, ended).values()
    assert found["early"] > 8 << 20
    assert found["growth"] == found["late"] - found["early"] > 20 << 20
    assert watch.between(ended + 1, ended + 2) == {}


def test_rows_are_those_of_a_run(tmp_path: Path) -> None:
    found = large_results.write_samples(tmp_path / "rows.parquet", 500)
    assert found["rows"] == 500
    assert found["bytes"] == (tmp_path / "rows.parquet").stat().st_size


def _run_here(config: RunConfig, folder: Path) -> None:
    """Does what a run does, in this process."""
    config, _, _ = training_run.resolve(config)
    open_run_folder(folder, config, resume=False)
    train(config, LocalSession(folder, torch.device("cpu")))
    training_run.write_report(folder)


@pytest.mark.usefixtures("forked_processes")
def test_all_parts_of_a_rehearsal(
    sources: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if ffcv_problem():
        pytest.skip("FFCV is not installed")
    monkeypatch.setattr(epoch_memory, "run", _run_here)
    monkeypatch.setattr(large_results, "IMAGENET", 400)
    monkeypatch.setattr(rehearsal, "_EVALUATORS", 1)
    file = tmp_path / "found.json"
    asked = ["--data", str(sources), "--images", "40", "--rounds", "1", "--json", str(file)]
    assert benchmark.main(["rehearsal", *asked]) == file
    found = json.loads(file.read_text())
    assert found["images"]["train"] == 40
    assert found["prepare"]["images"] == 40 + found["images"]["test"]
    assert found["ratios"].keys() == {"prepare_by_pillow", "prepare_by_ffcv_writer"}
    assert found["epoch"]["images"] > 0
    assert found["samples"]["rows"] == found["report"]["rows"] == 400
    assert found["report"]["classes"] == found["images"]["classes"] == 10
    assert found["evaluation"]["images"] == 40
    assert found["evaluation"]["shards"] >= 1
    assert all(
        each["met"] in (True, False) for part in found.values() for each in part.get("targets", [])
    )
    assert "target: under 5 MB: met" in capsys.readouterr().out
    # Nothing of it stays but the figures.
    assert [each.name for each in tmp_path.iterdir()] == ["found.json"]


def test_a_folder_of_images_is_needed_and_a_free_place(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data"):
        benchmark.main(["rehearsal", "--json", str(tmp_path / "found.json")])
    (tmp_path / "found.rehearsal").mkdir()
    with pytest.raises(UserError, match="found.rehearsal is there already"):
        benchmark.main(
            ["rehearsal", "--data", str(sources), "--json", str(tmp_path / "found.json")]
        )
    assert (tmp_path / "found.rehearsal").exists()
