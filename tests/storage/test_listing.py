"""Runs in a store are listed as those of a folder are."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as stores
import pytest

from dynat_ray import runs
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from tests.test_runs import make_place, rows_of


def test_a_store_is_listed_like_a_folder(
    small_config: RunConfig, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_place(small_config, tmp_path)
    runs.main([str(place)])
    expected = rows_of(capsys.readouterr().out)
    address = f"{bucket}/some/runs"
    for file in place.rglob("*"):
        if file.is_file():
            stores.copy_files(str(file), f"{address}/{file.relative_to(place).as_posix()}")
    assert runs.main([address]) == address
    found = rows_of(capsys.readouterr().out)
    # Its line names the copy.
    assert "can't be read" in found.pop("damaged")
    assert expected.pop("damaged")
    assert found == expected


def test_a_page_of_a_store_is_refused(bucket: str) -> None:
    with pytest.raises(UserError, match="--html is for a folder"):
        runs.main([bucket, "--html"])
