"""Opening a folder or going on with it: the rules that runs, searches and comparisons share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dynat_ray.errors import UserError
from dynat_ray.storage.resumable_folder import FolderKind, open_folder


def kind(**options: Any) -> FolderKind:
    return FolderKind(
        name="journey",
        file="journey.yaml",
        read=lambda folder: yaml.safe_load((folder / "journey.yaml").read_text()),
        may_change=lambda key, *_: key == "pace",
        **options,
    )


def start(folder: Path, *, resume: bool = False, pace: int = 1, **options: Any) -> list[str]:
    settings = {"from": "here", "pace": pace} | options.pop("settings", {})
    return open_folder(kind(**options), folder, settings, yaml.safe_dump(settings), resume=resume)


def test_what_exists_is_gone_on_with_only_if_asked(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "journey"
    assert start(folder, resume=True) == []
    with pytest.raises(UserError, match=r"the journey .*/deep/journey exists; add --resume to go"):
        start(folder)
    assert start(folder, resume=True) == []


def test_only_what_may_change_does(tmp_path: Path) -> None:
    folder = tmp_path / "journey"
    start(folder)
    assert start(folder, resume=True, pace=2) == ["pace: 1 -> 2"]
    words = r"the journey .* another setting \(from: 'here' -> 'there'\); give the new journey"
    with pytest.raises(UserError, match=words):
        start(folder, resume=True, pace=3, settings={"from": "there"})
    with pytest.raises(UserError, match=r"\(to: None -> 'there'\)"):
        start(folder, resume=True, settings={"to": "there"})
    # The last command that was not refused.
    assert kind().read(folder) == {"from": "here", "pace": 2}
    assert start(folder, resume=True, pace=4, keeps_first=True) == ["pace: 2 -> 4"]
    assert kind().read(folder) == {"from": "here", "pace": 2}


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for options in ({}, {"resume": True}, {"joins_others": True}):
        with pytest.raises(UserError, match=r"is not a journey's: it holds no journey\.yaml"):
            start(tmp_path, **options)
    assert start(tmp_path, joins_others=True, resume=True) == []
    assert (tmp_path / "journey.yaml").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the journey's folder .*/file/journey can't be written"):
        start(tmp_path / "file" / "journey")
