"""`~` in paths, also in those of a stranger's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynat_ray.data import load_info
from dynat_ray.errors import UserError
from dynat_ray.user_path import user_path


def test_the_home_folder_takes_the_place_of_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert user_path("~/runs") == user_path(Path("~/runs")) == Path("/somewhere/runs")
    assert user_path("runs/~") == Path("runs/~")


def test_the_home_of_nobody_is_no_folder() -> None:
    assert user_path("~nobody-at-all/x") == Path("~nobody-at-all/x")
    with pytest.raises(UserError, match="does not exist"):
        load_info("~nobody-at-all/x")
