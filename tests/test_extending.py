"""The examples of `docs/extending.md`, as they stand there, in a package with an entry point."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.processes import run_python
from tests.small_run import SMALL

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# Trains the method, evaluates it with the attack on the source's images, reads the space.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from dynat_ray import load_model
from dynat_ray.data import load_test_images
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.evaluation import evaluate_attacks
from dynat_ray.perturb.threat import Threat
from dynat_ray.searching.space import check_space, read_space
from dynat_ray.settings import build_config
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train

folder = Path(sys.argv[1])
prepare_dataset(f"npy:{folder / 'digits'}", folder / "data", progress=False)
settings = json.loads(sys.argv[2]) | {"data.path": str(folder / "data")}
config = build_config([settings | {"method.name": "half_clean"}])
train(config, LocalSession(folder / "run", torch.device("cpu")))
x, y = load_test_images(folder / "data", limit=60)
found = evaluate_attacks(
    load_model(folder / "run"), x, y, ["clean", "corners"], Threat("Linf", 0.3)
)
space = read_space(folder / "space.yaml")
check_space(space, build_config([settings, space.fixed]))
print(json.dumps({name: outcome.accuracy for name, outcome in found.items()}))
print(json.dumps(sorted(space.searched)))
"""


def _examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Returns a folder that Python takes for one of installed packages."""
    site = tmp_path / "site"
    (site / "half_clean-1.dist-info").mkdir(parents=True)
    (site / "half_clean-1.dist-info" / "METADATA").write_text("Name: half-clean\nVersion: 1\n")
    (entry,) = _examples("toml")
    name = re.search(r'half_clean = "(\w+)"', entry)
    assert name
    (site / "half_clean-1.dist-info" / "entry_points.txt").write_text(
        f"[dynat_ray.plugins]\nhalf_clean = {name[1]}\n"
    )
    (site / f"{name[1]}.py").write_text("\n\n".join(_examples("python")))
    return site


def _run(arguments: list[str], site: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(site)])
    return run_python(*arguments, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})


def test_all_examples_work_as_they_stand(installed: Path, tmp_path: Path) -> None:
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    (tmp_path / "digits").mkdir()
    for split, rows in (("train", slice(0, 300)), ("test", slice(300, 400))):
        np.save(tmp_path / "digits" / f"x_{split}.npy", images[rows])
        np.save(tmp_path / "digits" / f"y_{split}.npy", digits.target[rows])
    (space,) = _examples("yaml")
    (tmp_path / "space.yaml").write_text(space)
    done = _run(["-c", SCRIPT, str(tmp_path), json.dumps({**SMALL, "data.limit": 200})], installed)
    assert done.returncode == 0, done.stderr
    accuracies, searched = map(json.loads, done.stdout.splitlines()[-2:])
    assert accuracies["clean"] > accuracies["corners"]
    assert searched == ["optim.lr", "train.label_smoothing"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["loss"] < json.loads(lines[0])["loss"]


def test_the_eight_lines_of_the_readme_train(installed: Path, tmp_path: Path) -> None:
    code = re.search(
        r"```python\n(.*?half_clean.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert code
    assert len([line for line in code[1].splitlines() if line.strip()]) <= 8
    (installed / "half_clean.py").write_text(code[1])
    script = """
import json, sys
from pathlib import Path
import torch
from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.settings import build_config, dump_config, flatten
from dynat_ray.training.session import LocalSession
from dynat_ray.training.trainer import train
import yaml
folder = Path(sys.argv[1])
prepare_dataset("digits", folder / "data", progress=False)
settings = json.loads(sys.argv[2]) | {"data.path": str(folder / "data"), "train.epochs": 1}
config = build_config([settings | {"method.name": "half_clean"}])
assert build_config([flatten(yaml.safe_load(dump_config(config)))]) == config
train(config, LocalSession(folder / "run", torch.device("cpu")))
"""
    done = _run(["-c", script, str(tmp_path), json.dumps({**SMALL, "data.limit": 200})], installed)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("what", ["RuntimeError", "SystemExit"])
def test_a_plugin_that_fails_is_named_and_stops_nothing(installed: Path, what: str) -> None:
    (installed / "half_clean.py").write_text(f"raise {what}('broken on purpose')\n")
    done = _run(["-c", "import dynat_ray; print(dynat_ray.__version__)"], installed)
    assert done.returncode == 0
    assert "the plugin 'half_clean'" in done.stderr
    assert f"{what}: broken on purpose" in done.stderr
