"""What registers itself in another package is imported with it, and not before."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from dynat_ray.import_after import import_after


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose names a module of its own, `quiet_follower`, adds to."""
    (tmp_path / "quiet_package.py").write_text("names = ['own']\n")
    (tmp_path / "quiet_follower.py").write_text(
        "import quiet_package\nquiet_package.names.append('ours')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for name in ("quiet_package", "quiet_follower"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    return "quiet_package"


def test_it_comes_with_the_package(package: str) -> None:
    finders = [*sys.meta_path]
    import_after(package, "quiet_follower")
    assert not {package, "quiet_follower"} & sys.modules.keys()
    imported = importlib.import_module(package)
    assert imported.names == ["own", "ours"]
    assert sys.meta_path == finders
    assert imported.__spec__.loader.get_source(package) == "names = ['own']\n"


def test_it_comes_at_once_where_the_package_is_there(package: str) -> None:
    imported = importlib.import_module(package)
    import_after(package, "quiet_follower")
    assert imported.names == ["own", "ours"]


def test_it_may_import_the_package_itself(package: str) -> None:
    import_after(package, "quiet_follower")
    importlib.import_module("quiet_follower")
    assert importlib.import_module(package).names == ["own", "ours"]


def test_a_package_that_is_not_there_is_missed_by_who_wants_it() -> None:
    import_after("no_such_package_anywhere", "quiet_follower")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
        importlib.import_module("no_such_package_anywhere")
    assert "quiet_follower" not in sys.modules
