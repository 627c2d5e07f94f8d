"""Whether somebody works on a folder, told by the claims beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynat_ray.storage.claims import Claim
from dynat_ray.storage.lease import lease
from dynat_ray.storage.owners import work_on
from tests.test_runs import claim

ELSEWHERE = {"owner": True, "place": "another machine"}


def test_who_has_the_lease_is_running(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert work_on(run) is None
    with lease(run, "run", wait=False):
        # The own process is looked up like any other.
        assert work_on(run) == "running"
    assert work_on(run) is None


@pytest.mark.parametrize(
    ("content", "age", "expected"),
    [
        ({"owner": True, "begun": "before"}, 0, None),
        ({"owner": True, "ending": True}, 0, "stopping"),
        (ELSEWHERE, 5, "running"),
        (ELSEWHERE, 600, None),
    ],
    ids=["dead", "told to end", "alive elsewhere", "silent elsewhere"],
)
def test_what_a_claim_tells(
    content: dict[str, object], age: float, expected: str | None, tmp_path: Path
) -> None:
    file = claim(tmp_path / "run", Claim(**content))  # type: ignore[arg-type]
    os.utime(file, (file.stat().st_atime, file.stat().st_mtime - age))
    assert work_on(tmp_path / "run") == expected
