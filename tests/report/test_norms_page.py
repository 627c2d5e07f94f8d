"""The page of several norms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynat_ray.errors import UserError
from dynat_ray.report.norms_page import write_norms_page
from tests.report.conftest import entry
from tests.report.test_run_page import Page

CLASSES = ["cat", "<b>dog"]
# Four images, the last wrong without attack; which of them each norm's attack leaves right.
RIGHT = {"Linf": [True, False, False, False], "L1": [True, True, False, False]}


def leave_norm(folder: Path, norm: str) -> dict[str, Any]:
    right = RIGHT[norm]
    results = {"clean": entry(75.0, 4), "autoattack": entry(25.0 * sum(right), 4)}
    checks = [{"name": "zero gradients", "flagged": norm == "L1", "sentence": "it is blind"}]
    content = {
        "results": results,
        "norm": norm,
        "eps": 0.1,
        "model": "m",
        "samples": 4,
        "class_names": CLASSES,
        "outcomes": f"e.{norm}.parquet",
        "checks": checks,
        "checksums": {"model": "0", "data": "0"},
    }
    (folder / f"e.{norm}.json").write_text(json.dumps(content))
    fooled = [None if r or place == 3 else "square" for place, r in enumerate(right)]
    columns = {
        "label": [0, 0, 1, 1],
        "autoattack.correct": right,
        "autoattack.fooled_by": pa.array(fooled, type=pa.string()),
    }
    pq.write_table(pa.table(columns), folder / f"e.{norm}.parquet")
    return {"norm": norm, "eps": 0.1, "file": f"e.{norm}.json", "results": results}


def content_of(folder: Path, **more: Any) -> dict[str, Any]:
    norms = [leave_norm(folder, norm) for norm in RIGHT]
    union = {"clean": entry(75.0, 4), "autoattack": entry(25.0, 4)}
    facts = {"model": "m", "data": "d", "attacks": ["clean", "autoattack"], "seed": 0}
    return {"norms": norms, "union": union, "union_only": False, **facts, **more}


def test_the_page_says_which_norm_decides(tmp_path: Path) -> None:
    page = Page(write_norms_page(tmp_path / "e.json", content_of(tmp_path)))
    assert page.headings == [
        "Test images still right",
        "Can these numbers be trusted?",
        "Which norm decides",
        "By class",
    ]
    assert page.says("3 images that are right without attack, under autoattack")
    # One falls under both, one under Linf alone, one under neither.
    assert page.says("Linf 25.5/255 and L1 0.1 1 33.3")
    assert page.says("Linf 25.5/255 1 33.3")
    assert page.says("none: right under all norms 1 33.3")
    # The worst class first: images, then without attack, each norm, all of them.
    assert page.says("<b>dog 2 50.0 0.0 0.0 0.0 cat 2 100.0 50.0 100.0 50.0")
    assert page.says("L1 0.1, zero gradients")
    assert not page.says("Linf 25.5/255, zero gradients")
    assert 'href="e.L1.html"' in page.source
    assert not page.says("AutoAttack was not run")


def test_where_only_the_union_counts_each_norm_says_what_it_left(tmp_path: Path) -> None:
    union = {"all attacks": entry(25.0, 4)}
    content = content_of(tmp_path, union_only=True, union=union)
    for found in content["norms"][1:]:
        found["results"]["autoattack"]["samples"] = 2
    page = Page(write_norms_page(tmp_path / "e.json", content))
    assert page.says("25.0 % (23.0 to 27.0) of 4 images are right under all norms")
    assert page.says("Linf 25.5/255 4 2")
    assert page.says("L1 0.1 2 1")


def test_outcomes_that_can_not_be_read(tmp_path: Path) -> None:
    content = content_of(tmp_path)
    (tmp_path / "e.L1.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match="can't be read as outcomes of test images"):
        write_norms_page(tmp_path / "e.json", content)
