"""Help and mistakes are answered before PyTorch, timm or Ray, which take seconds, are imported."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import dynat_ray
from dynat_ray.__main__ import COMMANDS

MISTAKES = [
    (["train", "--train.epochz", "3"], "train.epochz"),
    (["train", "--method.name", "trades", "--method.bata", "3"], "did you mean method.beta"),
    (["train", "--method.name", "tradez"], "trades"),
    (["train", "--threat.eps", "8"], "threat.eps 8 under Linf"),
    (["train", "--recipe", "digit"], "digits"),
    (["train", "--data.augment", "[crop,flop]"], "did you mean flip"),
    (["train", "--eval.attacks", "[clean,autoatack]"], "did you mean autoattack"),
    (["compare", "--methods", "pgd_at,tradez"], "trades"),
    (["compare", "--methods", "pgd_at", "--eval.attacks", "[pgd]"], "unknown attack 'pgd'"),
    (["compare", "--methods", "standard:ablation"], "no parts that switch off"),
    (["tune", "space.yaml", "--trials", "2", "--max-concurrent", "0"], "--max-concurrent"),
    (["evaluate", "run", "--ep", "8/255"], "--ep"),
    (["evaluate", "run", "--norm", "L3"], "--norm"),
    (["evaluate", "run", "--attacks", "clean, pgd-O"], "unknown attack 'pgd-O'"),
    (["evaluate", "runs/misspelt"], "the model runs/misspelt does not exist"),
    (["evaluate", "run", "--data", "sets/misspelt"], "--data sets/misspelt does not exist"),
    (["evaluate", "run", "--compare", "no/such.json"], "--compare no/such.json does not exist"),
    (["export", "runs/misspelt", "--to", "onnx", "--out", "out"], "the model runs/misspelt"),
    (["convert", "no/such.pt", "--arch", "resnet18", "--out", "out"], "the file no/such.pt"),
    (["prepare", "digits", "--out", "out", "--size", "0"], "--size is 0"),
    (["benchmark", "stepp"], "stepp"),
    (["benchmark", "--rounds", "0"], "--rounds"),
]
SLOW = {"torch", "torchvision", "timm", "ray"}
# Answers all in one process, and says what it has imported after each.
PROGRAM = f"""
import contextlib, io, json, sys
from importlib import import_module
from dynat_ray.errors import UserError

for command, *arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            import_module("dynat_ray." + command).main(arguments)
    except (SystemExit, UserError) as ended:
        said.write(str(ended))
    print(json.dumps([sorted({SLOW!r} & sys.modules.keys()), said.getvalue()]))
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user does: `tests.processes` begins with PyTorch imported."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def answers(folder: Path, asked: list[list[str]]) -> list[tuple[list[str], str]]:
    """Returns, for each command with its arguments, what is imported by then and what it said."""
    done = run(folder, "-c", PROGRAM, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return [(imported, said) for imported, said in map(json.loads, done.stdout.splitlines())]


def test_help_imports_none_of_them(tmp_path: Path) -> None:
    asked = [[name, "--help"] for name in COMMANDS]
    found = dict(zip(COMMANDS, answers(tmp_path, asked), strict=True))
    assert {name: imported for name, (imported, _) in found.items() if imported} == {}
    assert [name for name, (_, said) in found.items() if not said.startswith("usage:")] == []


def test_a_mistake_imports_none_of_them(tmp_path: Path) -> None:
    found = answers(tmp_path, [arguments for arguments, _ in MISTAKES])
    for (arguments, words), (imported, said) in zip(MISTAKES, found, strict=True):
        assert (imported, words in said) == ([], True), (arguments, said)


@pytest.mark.parametrize("arguments", [["--help"], ["trian"], ["train", "--train.epochz", "3"]])
def test_nor_does_the_one_command(tmp_path: Path, arguments: list[str]) -> None:
    # `-X importtime` names what is imported, on stderr.
    done = run(tmp_path, "-X", "importtime", "-m", "dynat_ray", *arguments)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "dynat_ray.cli" in imported
    assert imported & SLOW == set()


def test_scipy_is_imported_where_it_is_used() -> None:
    """It takes a second, and few of the processes that import our modules ever need it."""
    at_the_top = [
        f"{path}:{statement.lineno}"
        for path in Path(dynat_ray.__file__).parent.rglob("*.py")
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Import | ast.ImportFrom) and "scipy" in ast.unparse(statement)
    ]
    assert at_the_top == []
