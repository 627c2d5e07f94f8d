"""What is read of a folder that may be a stranger's: no pipe is waited for, no hole is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynat_ray.bounded_file import read_bounded
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.evaluation.state_file import open_state
from dynat_ray.models.config_json import read_description
from dynat_ray.report.side_by_side import read_evaluation
from dynat_ray.searching.study import read_search
from dynat_ray.searching.trial_records import read_trial
from dynat_ray.settings import read_settings
from dynat_ray.storage.json_file import read_json
from dynat_ray.storage.metrics import read_metrics
from dynat_ray.storage.run_folder import read_run_config
from dynat_ray.training.checkpoint import read_checkpoint

# Bytes, more than any machine has memory for.
HOLE = 2**42


def pipe(file: Path) -> None:
    os.mkfifo(file)


def hole(file: Path) -> None:
    file.touch()
    os.truncate(file, HOLE)


def device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def folder(file: Path) -> None:
    file.mkdir()


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    (tmp_path / "link").symlink_to(file)
    assert read_bounded(file) == read_bounded(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bounded(file, 4)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none")


@pytest.mark.parametrize("make", [pipe, hole, device, folder])
def test_anything_else_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(OSError, match="no file|more than"):
        read_bounded(tmp_path / "file")


def _trial(folder: Path) -> Any:
    return read_trial(folder.parents[1], 0)


def _sum(folder: Path) -> Any:
    (folder / "state.pt").touch()
    return read_checkpoint(folder)


def _state(folder: Path) -> Any:
    (folder / "state.sha256").write_text("0")
    return read_checkpoint(folder)


# The name of a file, and who reads it from its folder.
READERS: dict[str, Callable[[Path], Any]] = {
    "dataset.json": load_info,
    "config.json": lambda folder: read_description(folder / "config.json"),
    "environment.json": lambda folder: read_json(folder / "environment.json"),
    "other.json": lambda folder: read_evaluation(folder / "other.json"),
    "search.yaml": read_search,
    "trial.json": _trial,
    "metrics.jsonl": lambda folder: read_metrics(folder / "metrics.jsonl"),
    "state.sha256": _sum,
}


# Settings may come through a pipe, which their user names.
@pytest.mark.parametrize(
    ("name", "make"),
    [(n, m) for n in READERS for m in (pipe, hole, device) if (n, m) != ("search.yaml", pipe)],
)
def test_all_who_read_such_a_file(name: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    place = tmp_path / "trials" / "0000"
    place.mkdir(parents=True)
    make(place / name)
    found = _outcome(READERS[name], place)
    assert not found or (isinstance(found, UserError) and len(str(found)) < 500)


def _outcome(read: Callable[[Path], Any], place: Path) -> Any:
    try:
        return read(place)
    except UserError as error:
        return error


def test_a_checkpoint_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state.pt")
    assert _state(tmp_path) is None


@pytest.mark.parametrize("read", [read_settings, lambda file: read_run_config(file.parent)])
def test_settings_with_a_hole(read: Callable[[Path], Any], tmp_path: Path) -> None:
    hole(tmp_path / "config.yaml")
    with pytest.raises(UserError, match="more than"):
        read(tmp_path / "config.yaml")


def test_a_search_whose_aliases_multiply(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (tmp_path / "search.yaml").write_text("\n".join([*lines, "options: *a11", "space: {}"]))
    with pytest.raises(UserError, match="stands for more than"):
        read_search(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_the_state_of_an_evaluation_with_a_hole(tmp_path: Path, resume: bool) -> None:
    file = tmp_path / "evaluation.state.jsonl"
    hole(file)
    with open_state(file, {"model": "one"}, resume=resume) as state:
        assert state.take_over([]) == ([], [])
    assert file.stat().st_size < 1000
    (header,) = file.read_text().splitlines()
    assert json.loads(header)["identity"] == {"model": "one"}
