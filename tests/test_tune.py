"""The search command: mistakes are said in one line, before Ray starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dynat_ray.errors import UserError
from dynat_ray.tune import main
from tests.processes import run_python

SPACE = str(Path(__file__).parents[1] / "tune_spaces" / "dynat.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.yaml", "--trials", "2"], r"nowhere\.yaml"),
        ([SPACE], "--trials"),
        ([SPACE, "--trials", "0"], "--trials is 0"),
        ([SPACE, "--trials", "2", "--max-concurrent", "0"], "--max-concurrent is 0"),
        ([SPACE, "--trials", "2", "--time-budget", "-1"], "--time-budget is -1"),
        ([SPACE, "--trials", "2", "--objectives", "clean"], "robust"),
        ([SPACE, "--trials", "2", "--search", "bayes"], "tpe"),
        ([SPACE, "--trials", "2", "--recipe", "digit"], "did you mean digits"),
        ([SPACE, "--trials", "2", "--method.skew_coeff", "1"], "did you mean method.skew_coef"),
        ([SPACE, "--trials", "2", "--method.name", "trades"], "unknown setting 'method"),
        ([SPACE, "--trials", "2", "--data.val_fraction", "0"], "held-out"),
        ([SPACE, "--trials", "2", "--eval.beside", "true"], "eval.beside"),
    ],
)
def test_mistakes(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        main(arguments)


def test_a_mistake_in_a_space_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("method.kl_temperature: {loguniform: [5, 0.2]}\n")
    answer = run_python("-m", "dynat_ray.tune", str(file), "--trials", "4", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr == (
        "error: method.kl_temperature: loguniform [5, 0.2] is no range; the smaller value comes "
        "first\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]


@pytest.mark.parametrize("search", ["tpe", "random", "grid"])
def test_every_search_needs_optuna(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install"):
        main([SPACE, "--trials", "4", "--search", search])


def test_without_optuna_there_is_one_line() -> None:
    program = (
        "import sys; sys.modules['optuna'] = None; "
        "from dynat_ray.cli import run; from dynat_ray.tune import main; run(main)"
    )
    answer = run_python("-c", program, SPACE, "--trials", "4")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr == "error: a search needs Optuna: pip install 'dynat-ray[tune]'\n"
