"""`dynat-ray`: one command for all, which runs what `python -m dynat_ray.COMMAND` runs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dynat_ray
from dynat_ray import __main__ as command
from dynat_ray.command_line import program_words


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dynat-ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_says_its_version_and_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"dynat-ray {dynat_ray.__version__}\n"
    assert call(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert [name for name in command.COMMANDS if f"  {name} " not in shown] == []


def test_a_command_gets_its_arguments_as_python_m_gives_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []
    runs = import_module("dynat_ray.runs")
    words: list[str] = []

    def stand_in(argv: list[str]) -> Path:
        seen.append([*sys.argv, *argv])
        words.extend(program_words())
        return tmp_path

    monkeypatch.setattr(runs, "main", stand_in)
    assert call(monkeypatch, "runs", "somewhere", "--html") == 0
    assert seen == [[str(runs.__file__), "somewhere", "--html", "somewhere", "--html"]]
    assert capsys.readouterr().out == f"{tmp_path}\n"
    # What a line to go on with begins with.
    assert words == ["python", "-m", "dynat_ray.runs"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["trian"], "did you mean train"), (["completion", "fish"], "bash, zsh")],
)
def test_a_mistake_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert call(monkeypatch, *arguments) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert words in line
    assert line.count("\n") == 1


def test_bash_completes_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "COMMANDS", {"convert": "", "runs": ""})
    assert call(monkeypatch, "completion", "bash") == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=(dynat-ray {0} {1}); COMP_CWORD={2}; _dynat_ray; echo "${{COMPREPLY[@]}}"'
    for words, number, expected in (
        (("con", ""), 1, "convert"),
        (("convert", "--ar"), 2, "--arch"),
        (("runs", "--h"), 2, "--help --html"),
    ):
        asked = f"{script}\n{ask.format(*words, number)}"
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("name", ["convert", "export", "runs"])
def test_commands_say_their_options_without_pytorch(name: str) -> None:
    code = (
        f"import sys; from dynat_ray import {name}\n"
        f"try: {name}.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
