"""`runs`: what lies in a folder of runs, how it did, and what became of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynat_ray import runs
from dynat_ray.config import RunConfig
from dynat_ray.errors import Stopped, UserError
from dynat_ray.searching.trial_records import Trial, write_trial
from dynat_ray.settings import dump_config
from dynat_ray.storage.claims import Claim
from dynat_ray.storage.failure import failure_recorded

RESULTS = {
    "best": {
        "clean": {"accuracy": 90.0, "samples": 360},
        "autoattack": {"accuracy": 61.2, "samples": 200, "interval": [54.3, 67.8]},
    },
    "seconds": 5400.0,
}
LINE = {"epoch": 0, "epochs_done": 1.0, "seconds": 30.0, "forward_units": 5.0}


def claim(run: Path, content: Claim) -> Path:
    """Leaves a claim beside a run, as its owner does."""
    file = run.with_name(f".{run.name}.lease-0123")
    file.write_bytes(content.encode())
    return file


@pytest.fixture
def place(small_config: RunConfig, tmp_path: Path) -> Path:
    return make_place(small_config, tmp_path)


def make_place(small_config: RunConfig, tmp_path: Path) -> Path:
    """Returns a folder with runs in every state, a search, a comparison and something else."""
    text = dump_config(small_config)
    runs = ("finished", "running", "stopped", "killed", "compared/runs/pgd_at-seed0")
    for name in (*runs, *(f"searched/trials/{number:04d}" for number in range(4))):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(text)
        (folder / "metrics.jsonl").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "runs" / "finished" / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "runs" / "finished" / "report.html").write_text("<html>")
    for number, state in enumerate(("finished", "stopped", "failed", "running")):
        error = "out of\nmemory" * (state == "failed")
        write_trial(tmp_path / "runs" / "searched", Trial(number, {}, state, error))
    claim(tmp_path / "runs" / "running", Claim(owner=True))
    claim(tmp_path / "runs" / "killed", Claim(owner=True, begun="before"))
    groups = ("compared", "compare.yaml"), ("searched", "search.yaml")
    for name, file in (("damaged", "config.yaml"), ("x", "notes"), *groups):
        (tmp_path / "runs" / name).mkdir(exist_ok=True)
        (tmp_path / "runs" / name / file).write_text("a: [")
    return tmp_path / "runs"


def test_the_table_says_how_each_did(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(place)]) == place.resolve()
    table = capsys.readouterr().out
    lines = rows_of(table)
    names = {"name", "finished", "running", "stopped", "killed", "damaged", "compared", "searched"}
    assert set(lines) == names | {"pgd_at-seed0", *(f"000{number}" for number in range(4))}
    for words in ("dynat", "digits", "1/2", "90.0", "61.2 (54.3 to 67.8)", "1:30 h", "finished"):
        assert words in lines["finished"], words
    assert lines["running"].endswith("running")
    assert lines["stopped"].endswith("stopped at 1/2")
    assert lines["killed"].endswith("stopped at 1/2")
    assert lines["pgd_at-seed0"].startswith("└ pgd_at-seed0")
    assert "can't be read" in lines["damaged"]
    assert "no table yet" in lines["compared"]
    assert "1 of 4 trials finished" in lines["searched"]
    assert lines["0000"].endswith("finished")
    assert lines["0001"].endswith("stopped early at 1/2")
    assert lines["0002"].endswith("failed at 1/2: out of memory")
    assert lines["0003"].endswith("stopped at 1/2")


def test_a_failed_run_says_why_until_it_goes_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="loss"), failure_recorded(place / "stopped"):
        raise ValueError("the loss\n is NaN")
    runs.main([str(place)])
    assert rows_of(capsys.readouterr().out)["stopped"].endswith("failed at 1/2: the loss is NaN")
    with pytest.raises(Stopped), failure_recorded(place / "stopped"):
        raise Stopped("at 1/2")
    runs.main([str(place)])
    assert rows_of(capsys.readouterr().out)["stopped"].endswith("stopped at 1/2")


def rows_of(table: str) -> dict[str, str]:
    """Returns the lines of a table by the names in them."""
    return {line.removeprefix("└ ").split()[0]: line for line in table.splitlines() if line}


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
