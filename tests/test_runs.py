"""`runs`: what lies in a folder of runs, how it did, and what became of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dynat_ray import runs
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.settings import dump_config

RESULTS = {
    "best": {
        "clean": {"accuracy": 90.0, "samples": 360},
        "autoattack": {"accuracy": 61.2, "samples": 200, "interval": [54.3, 67.8]},
    },
    "seconds": 5400.0,
}
LINE = {"epoch": 0, "epochs_done": 1.0, "seconds": 30.0, "forward_units": 5.0}


@pytest.fixture
def place(small_config: RunConfig, tmp_path: Path) -> Path:
    """A folder with a finished, a running and a stopped run, a damaged one and others."""
    text = dump_config(small_config)
    for name in ("finished", "running", "stopped"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(text)
        (folder / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "runs" / "finished" / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "runs" / "finished" / "report.html").write_text("<html>")
    for file in (tmp_path / "runs" / "stopped").iterdir():
        os.utime(file, (1e9, 1e9))
    for name, file in (("damaged", "config.yaml"), ("compared", "compare.yaml"), ("x", "notes")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / file).write_text("a: [")
    return tmp_path / "runs"


def test_the_table_says_how_each_did(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(place)]) == place.resolve()
    table = capsys.readouterr().out
    lines = {line.split()[0]: line for line in table.splitlines() if line}
    assert set(lines) == {"name", "finished", "running", "stopped", "damaged", "compared"}
    for words in ("dynat", "digits", "1/2", "90.0", "61.2 (54.3 to 67.8)", "1:30 h", "finished"):
        assert words in lines["finished"], words
    assert lines["running"].endswith("running")
    assert lines["stopped"].endswith("stopped at 1/2")
    assert "can't be read" in lines["damaged"]
    assert "no table yet" in lines["compared"]


def test_the_page_links_the_reports_that_are_there(place: Path) -> None:
    (place / "a b <i>").mkdir()
    for name in ("config.yaml", "report.html"):
        (place / "a b <i>" / name).write_text((place / "finished" / name).read_text())
    page = runs.main([str(place), "--html"])
    assert isinstance(page, Path)
    text = page.read_text()
    assert '<a href="finished/report.html">finished</a>' in text
    assert '<a href="a%20b%20%3Ci%3E/report.html">a b &lt;i&gt;</a>' in text
    assert "<i>" not in text
    assert 'href="running' not in text


def test_no_folder_and_an_empty_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        runs.main([str(tmp_path / "none")])
    runs.main([str(tmp_path)])
    assert "no runs in" in capsys.readouterr().out
