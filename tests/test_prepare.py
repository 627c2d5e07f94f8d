"""The command `dynat_ray.prepare`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from dynat_ray.cli import run
from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.prepare import main
from tests.processes import run_python


def test_it_prepares_and_returns_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = main(["digits", "--out", str(tmp_path / "digits"), "--limit", "100", "--size", "6"])
    assert written == tmp_path / "digits"
    info = load_info(written)
    assert info.counts == {"train": 100, "test": 100}
    assert info.size == (6, 6)
    assert "digits: 10 classes, 100 train, 100 test, 6 x 6 grey" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "required: SOURCE, --out"),
        (["digits"], "required: --out"),
        (["digits", "--out", "x", "--limit", "few"], "--limit: invalid int value: 'few'"),
        (["digits", "--out", "x", "--size", "0"], "--size is 0; it must be at least 1"),
        (["digits", "--out", "x", "--limit", "-1"], "--limit is -1; it must be"),
        (["digits", "--out", "s3://bucket"], "a whole bucket; give s3://BUCKET/NAME"),
    ],
)
def test_wrong_arguments(arguments: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        main(arguments)


def test_a_mistake_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = run_python("-m", "dynat_ray.prepare", "dogits", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr == "error: unknown source 'dogits'; did you mean digits?\n"
    assert list(tmp_path.iterdir()) == []


def test_names_in_errors_are_one_line_that_no_terminal_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        opened.writestr("../\x1b[2J\nerror: \u202eall is well", b"x")
    arguments = ["prepare", f"folder:{tmp_path / 'evil.zip'}", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: archive ")
    assert line.isprintable()
    assert line.endswith("names the path '../\ufffd[2J error: \ufffdall is well'")
