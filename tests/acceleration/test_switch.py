"""Without CPU kernels, switched off or deleted, everything works, and none is touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import dynat_ray
from dynat_ray.acceleration.switch import cpu_kernels, cpu_kernels_choice, may_use_cpu_kernels
from dynat_ray.errors import UserError
from dynat_ray.settings import build_config, read_settings, split_arguments
from tests.processes import run_python
from tests.small_run import SMALL

# Trains a little, evaluates what came out, and prints what was imported of the kernels.
_PROGRAM = """
import json, sys
from pathlib import Path
import torch
from dynat_ray import evaluate
from dynat_ray.settings import build_config
from dynat_ray.storage.run_folder import open_run_folder
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

torch.set_num_threads(1)
folder, settings, arguments = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
config = build_config([settings])
open_run_folder(folder, config, resume=False)
train(config, LocalSession(folder, torch.device("cpu")))
evaluate.main([str(folder), "--attacks", "clean,pgd-2", "--samples", "20", *arguments])
touched = [name for name in sys.modules if name.startswith("dynat_ray.acceleration.cpu")]
print(json.dumps({"touched": touched, "package": sys.modules["dynat_ray"].__file__}))
"""


def _run(
    folder: Path, digits: Path, package: Path, settings: dict[str, Any], *arguments: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns what the program printed, `environment.json` and `evaluation.json`."""
    # Wide enough for Winograd's algorithm, if it were there.
    wide = {"model.name": "preact_resnet10", "model.kwargs": {"base_width": 16}}
    short = {"train.epochs": 1, "data.limit": 96, "data.path": str(digits)}
    short |= {"attack.steps": 1, "eval.steps": 1}
    given = json.dumps({**SMALL, **wide, **short, **settings})
    finished = run_python(
        *("-c", _PROGRAM, str(folder), given, *arguments),
        env={**os.environ, "PYTHONPATH": str(package), "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder.parent,
    )
    assert finished.returncode == 0, finished.stderr
    printed = json.loads(finished.stdout.splitlines()[-1])
    environment, evaluation = (
        json.loads((folder / name).read_text()) for name in ("environment.json", "evaluation.json")
    )
    return printed, environment, evaluation


def test_switched_off_no_kernel_is_touched(tmp_path: Path, digits: Path) -> None:
    package = Path(dynat_ray.__file__).parents[1]
    off = {"train.cpu_kernels": "off"}
    printed, environment, evaluation = _run(
        tmp_path / "run", digits, package, off, "--cpu-kernels", "off"
    )
    assert printed["touched"] == []
    assert environment["cpu_kernels"] == evaluation["cpu_kernels"] == "off"
    assert environment["twin"] == "used"


def test_with_the_folder_deleted_all_works(tmp_path: Path, digits: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(
        Path(dynat_ray.__file__).parent,
        package / "dynat_ray",
        ignore=lambda folder, _: {"cpu"} if Path(folder).name == "acceleration" else set(),
    )
    # What Python leaves of a folder whose files were deleted.
    (package / "dynat_ray" / "acceleration" / "cpu" / "__pycache__").mkdir(parents=True)
    printed, environment, evaluation = _run(tmp_path / "run", digits, package, {})
    assert Path(printed["package"]).is_relative_to(package)
    assert printed["touched"] == []
    for record in (environment, evaluation):
        assert record["cpu_kernels"] == "unavailable: this installation comes without them"
    assert environment["twin"] == "used"


def test_otherwise_they_are_used_where_they_can_be(tmp_path: Path, digits: Path) -> None:
    pytest.importorskip("dynat_ray.acceleration.cpu")
    package = Path(dynat_ray.__file__).parents[1]
    printed, environment, evaluation = _run(tmp_path / "run", digits, package, {})
    assert "dynat_ray.acceleration.cpu" in printed["touched"]
    assert environment["cpu_kernels"] == evaluation["cpu_kernels"]
    assert environment["cpu_kernels"].partition(":")[0] in ("auto", "unavailable")


@pytest.mark.parametrize("written", ["off", '"off"', "false"])
def test_off_is_off_however_it_is_written(written: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"train:\n  cpu_kernels: {written}\n")
    overrides, _ = split_arguments([f"--train.cpu_kernels={written}"])
    for settings in (read_settings(file), overrides):
        assert build_config([settings]).train.cpu_kernels == "off"
    assert build_config([{}]).train.cpu_kernels == "auto"


def test_anything_else_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.cpu_kernels is .*auto.*off"):
        build_config([{"train.cpu_kernels": "some"}])


def test_the_switch_holds_for_a_while() -> None:
    with pytest.raises(ZeroDivisionError), cpu_kernels("off"):
        assert cpu_kernels_choice() == "off"
        assert not may_use_cpu_kernels()
        with cpu_kernels("auto"):
            assert cpu_kernels_choice() == "auto"
        assert cpu_kernels_choice() == "off"
        _ = 1 / 0
    assert cpu_kernels_choice() == "auto"
