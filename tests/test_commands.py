"""Commands as users call them: exit status, one line on stderr, the path on the last line."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import run_python


def check_mistake(status: object, stderr: str, words: str, folder: Path) -> None:
    assert status == 2
    lines = stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dynat_ray.train", "--recipe", "digit"], "digits"),
        (["dynat_ray.evaluate", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    """In an interpreter of its own, as for users."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    check_mistake(done.returncode, done.stderr, words, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["dynat_ray.train", "--train.epochs", "0"], "train.epochs"),
        (["dynat_ray.train", "--nonsense"], "--nonsense"),
        (["dynat_ray.train", "--threat.eps", "8"], "threat.eps 8 under Linf"),
        (["dynat_ray.prepare", "folder:nowhere", "--out", "out"], "nowhere"),
    ],
)
# The module that runs as a command has been imported by other tests.
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_other_mistakes_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    """In this process: a new one takes seconds to import PyTorch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(arguments[0], run_name="__main__")
    check_mistake(ended.value.code, capfd.readouterr().err, words, tmp_path)


def test_success_ends_with_the_path(tmp_path: Path) -> None:
    done = run_python("-m", "dynat_ray.prepare", "digits", "--out", "digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / done.stdout.splitlines()[-1] / "dataset.json").exists()


def test_help_lists_recipes_and_settings(tmp_path: Path) -> None:
    done = run_python("-m", "dynat_ray.train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("cifar10-small", "--threat.eps", "--method.skew_coef", "--resume"):
        assert word in done.stdout
    text = " ".join(done.stdout.split())
    assert (
        "Global batch size: the sum over all workers. (type: a whole number, at least 1; " in text
    )
    assert "train: The training loop:" in done.stdout


def test_help_shows_the_settings_of_the_chosen_method(tmp_path: Path) -> None:
    done = run_python("-m", "dynat_ray.train", "--method.name", "trades", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--method.beta" in done.stdout
    assert "--method.skew_coef" not in done.stdout
