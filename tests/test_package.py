"""What the package says of itself: versions of Python, the command, what it needs."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

import dynat_ray

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        pytest.skip("the library that reads TOML comes with Python 3.11")
    import tomllib

    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def test_each_python_that_is_named_is_tested(project: dict[str, Any]) -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["checks-and-tests"]
    assert job["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"
    assert any(".ci/run" in step.get("run", "") for step in job["steps"])


def test_the_command_and_the_version_are_there(project: dict[str, Any]) -> None:
    module, _, function = project["scripts"]["dynat-ray"].partition(":")
    assert callable(getattr(import_module(module), function))
    assert project["version"] == dynat_ray.__version__


def test_set_up_installs_extras_that_there_are(project: dict[str, Any]) -> None:
    # Those of the site are installed by `make docs`.
    files = ((ROOT / name).read_text() for name in ("setup.sh", "Makefile"))
    lists = re.findall(r"\.\[([\w,]+)\]", "".join(files))
    extras = {extra for each in lists for extra in each.split(",")}
    assert extras
    assert extras == project["optional-dependencies"].keys()
