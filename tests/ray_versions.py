"""Runs the tests that touch Ray under the lowest and the newest Ray that `pyproject.toml` allows.

`make ray-versions` runs it; `make ray-versions VERSIONS="2.59.0 2.60.0"` tries others, before the
range is widened. An environment for each lies in `.ray-versions/`: that Ray alone, before the
packages of the environment that this runs in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".ray-versions"
TESTS = ("tests/distributed", "tests/cluster", "tests/storage/test_request_budget.py")
_LISTED = re.compile(r"^Available versions: (.+)$", re.MULTILINE)


def main(versions: Sequence[str]) -> int:
    """Tests the versions; none given: the ends of the range. Returns how many did not pass."""
    if not versions:
        allowed = _allowed_range()
        published = sorted(map(Version, allowed.specifier.filter(_published())))
        versions = list(dict.fromkeys(map(str, (published[0], published[-1]))))
        print(f"{allowed}: {len(published)} published, to be tried: {', '.join(versions)}")
    failed = [version for version in versions if not _passes(version)]
    for version in versions:
        print(f"Ray {version}: {'failed' if version in failed else 'passed'}")
    return len(failed)


def _allowed_range() -> Requirement:
    """Returns the requirement on Ray of the installed package."""
    (found,) = (
        requirement
        for requirement in map(Requirement, requires("dynat-ray") or [])
        if requirement.name == "ray"
    )
    return found


def _published() -> list[str]:
    """Returns the versions that pip could install here."""
    command = [sys.executable, "-m", "pip", "index", "versions", "ray"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = _LISTED.search(done.stdout)
    assert found, done.stdout
    return found[1].split(", ")


def _passes(version: str) -> bool:
    python = _environment(version)
    asked = "import ray; print(ray.__version__)"
    there = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    assert there.stdout.strip() == version, there.stdout
    print(f"Ray {version}, {python}:", flush=True)
    path = {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    tests = subprocess.run(
        [python, "-m", "pytest", *TESTS], cwd=ROOT, env={**os.environ, **path}, check=False
    )
    return tests.returncode == 0


def _environment(version: str) -> Path:
    """Returns the Python that imports this Ray, and else what is installed here."""
    folder = FOLDER / version
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, clear=True, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        subprocess.run([*pip, "install", "--quiet", "--no-deps", f"ray=={version}"], check=True)
        here = sysconfig.get_path("purelib")
        own = sysconfig.get_path("purelib", vars={"base": str(folder)})
        # Comes after the environment's own packages, and minds the `.pth` files there.
        Path(own, "others.pth").write_text(f"import site; site.addsitedir({here!r})\n")
        (folder / "ready").touch()
    return python


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
