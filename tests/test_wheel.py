"""The package as its users have it: a wheel in an environment of its own, away from the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

import dynat_ray
from dynat_ray.__main__ import COMMANDS
from dynat_ray.settings import recipe_names

ROOT = Path(__file__).parent.parent
PACKED = ("pyproject.toml", "README.md", "LICENSE")


def call(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Returns what a command prints; nothing leads it to the source tree."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=inherited | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(
        ROOT / "dynat_ray", source / "dynat_ray", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in PACKED:
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel")
    call(*pip, "--no-deps", "--no-index", "--no-build-isolation", "-w", place, source, cwd=place)
    (found,) = place.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of an environment with the wheel and our dependencies are."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    call(*pip, "install", "--no-deps", "--no-index", wheel, cwd=place)
    (own,) = place.glob("lib/python*/site-packages")
    # Dependencies are this environment's. A path file that lies there, as that of an editable
    # installation does, says nothing here.
    (own / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return place / "bin"


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as file:
        (name,) = (each for each in file.namelist() if each.endswith(".dist-info/METADATA"))
        return Parser().parsestr(file.read(name).decode())


def test_its_pythons_are_those_that_are_tested(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    named = [each.rpartition(" ")[2] for each in classifiers if ":: Python :: 3." in each]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert named == workflow["jobs"]["checks-and-tests"]["strategy"]["matrix"]["python"]
    assert metadata["Requires-Python"] == f">={named[0]}"


def test_every_extra_that_a_page_or_an_error_names_is_there(metadata: Message) -> None:
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("dynat_ray/**/*.py")]
    named = {
        extra.strip()
        for text in texts
        for extras in re.findall(r"dynat-ray\[([\w,\s]+)\]", text.read_text())
        for extra in extras.split(",")
    }
    assert named <= set(metadata.get_all("Provides-Extra", []))
    assert "onnx" in named


def test_it_works_from_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    command = scripts / "dynat-ray"
    assert call(command, "--version", cwd=tmp_path) == f"dynat-ray {dynat_ray.__version__}\n"
    shown = call(command, "--help", cwd=tmp_path)
    assert all(name in shown for name in COMMANDS)
    # Lines break at hyphens.
    shown = "".join(call(command, "train", "--help", cwd=tmp_path).split())
    assert all(name in shown for name in recipe_names())
    where = "import dynat_ray; print(dynat_ray.__file__)"
    assert call(scripts / "python", "-c", where, cwd=tmp_path).startswith(str(scripts.parent))
    assert list(tmp_path.iterdir()) == []


def test_it_has_every_file_that_the_source_has(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if name.startswith("dynat_ray/")}
    listed = subprocess.run(
        ["git", "ls-files", "dynat_ray"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs the repository")
    there = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert there - packed == set()


@pytest.mark.faults
def test_it_trains_from_an_empty_folder(scripts: Path, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    cache = str(tmp_path / "cache")
    shown = call(scripts / "dynat-ray", "train", cwd=place, DYNAT_RAY_CACHE=cache)
    report = Path(shown.splitlines()[-1])
    assert report.is_file()
    assert report.is_relative_to(place / "runs")
