"""Paths in a submitted Ray job: what is not there is explained, what would vanish is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat_ray.errors import UserError
from dynat_ray.storage.places import default_out, lasting_file, open_place
from dynat_ray.submitted_job import explain_missing, require_lasting


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The working directory of a submitted job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("DYNAT_RAY_OUT", raising=False)
    folder = tmp_path / "copy"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data.path", "/Users/anna/photos"],
        ["--data.path=/Users/anna/photos"],
        ["--data.source", "folder:/Users/anna/photos", "--threat.eps", "8/255"],
        ["/Users/anna/photos", "--trials", "8"],
    ],
)
def test_a_path_of_the_submitting_machine_is_explained(job: Path, arguments: list[str]) -> None:
    error = UserError("there is no data set at /Users/anna/photos")
    text = str(explain_missing(error, arguments))
    assert text.startswith("there is no data set at /Users/anna/photos. A submitted job runs on")
    assert "--working-dir" in text


def test_other_mistakes_and_other_commands_stay_as_they_are(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = job / "photos"
    there.mkdir()
    for sentence, path in (("unknown setting", "/nowhere"), (f"{there} is damaged", str(there))):
        error = UserError(sentence)
        assert explain_missing(error, ["--data.path", path]) is error
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    error = UserError("there is no data set at /nowhere")
    assert explain_missing(error, ["--data.path", "/nowhere"]) is error


@pytest.mark.parametrize("out", ["runs", "../copy/runs", "{job}/runs"])
def test_what_would_vanish_with_the_job_is_refused(job: Path, out: str) -> None:
    chosen = out.format(job=job)
    with (
        pytest.raises(UserError, match=r"--out is .* vanishes with it"),
        open_place("run", "", chosen, "run", resume=False),
    ):
        pass


def test_a_folder_of_the_submitting_machine_is_refused(job: Path) -> None:
    with pytest.raises(UserError, match="does not exist on the cluster's head node") as caught:
        require_lasting(Path("/Users/anna/runs"), "--out")
    assert explain_missing(caught.value, ["--out", "/Users/anna/runs"]) is caught.value


def test_folders_that_last_are_taken(job: Path, tmp_path: Path) -> None:
    with open_place("run", "", str(tmp_path / "runs"), "run", resume=False) as place:
        assert place.folder == tmp_path / "runs" / "run"
        assert place.given
    with open_place("run", "", None, "run", resume=False) as place:
        assert place.folder == default_out() / "run"
        assert place.folder.is_relative_to(Path.home())
        assert not place.given


def test_elsewhere_a_relative_folder_is_below_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv("DYNAT_RAY_OUT", raising=False)
    monkeypatch.chdir(tmp_path)
    with open_place("run", "", None, "run", resume=False) as place:
        assert place.folder == tmp_path / "runs" / "run"
    monkeypatch.setenv("DYNAT_RAY_OUT", str(tmp_path / "elsewhere"))
    with open_place("run", "", None, "run", resume=False) as place:
        assert place.folder == tmp_path / "elsewhere" / "run"
        assert place.given


def test_the_same_evaluation_finds_its_file_again(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [lasting_file(Path("evaluation.json"), given=False, of=of) for of in ("a", "a", "b")]
    assert names[0] == names[1] != names[2]
    assert names[0].parent == tmp_path / "dynat-ray-runs"
