"""The benchmark command where a part's package is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dynat_ray import benchmark
from dynat_ray.errors import Stopped, UserError


def _lacking(options: Any) -> dict[str, Any]:
    raise ModuleNotFoundError("No module named 'ray'", name="ray")


def _measured(options: Any) -> dict[str, Any]:
    return {"value": 1, "ratios": {"x": {"median": 2.0, "min": 1.5, "max": 2.5}}}


def test_all_leaves_out_what_cannot_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(benchmark.GROUPS, "all", {"scaling": _lacking, "loader": _measured})
    file = tmp_path / "b.json"
    assert benchmark.main(["all", "--json", str(file)]) == file
    found = json.loads(file.read_text())
    assert found == {
        "ratios": {"x": {"median": 2.0, "min": 1.5, "max": 2.5}},
        "loader": {"value": 1},
    }
    shown = capsys.readouterr().out
    assert "the package ray is not installed" in shown
    assert "2.00 times (1.50 to 2.50)" in shown


def test_one_part_alone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: dict[str, Any] = dict.fromkeys(benchmark.PARTS, _lacking)
    monkeypatch.setattr(benchmark, "PARTS", parts)
    with pytest.raises(UserError, match="'scaling' needs the package ray"):
        benchmark.main(["scaling"])


@pytest.mark.parametrize("error", [UserError("no"), RuntimeError("no")])
def test_a_part_that_fails_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def failing(options: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setitem(benchmark.GROUPS, "all", {"scaling": failing, "loader": _measured})
    file = tmp_path / "new" / "b.json"
    with pytest.raises(UserError, match=r"^scaling: no \(what could be measured is in .*b.json"):
        benchmark.main(["all", "--json", str(file)])
    found = json.loads(file.read_text())
    assert found["loader"] == {"value": 1}
    assert found["scaling"] == {"error": f"{type(error).__name__}: no"}


def test_stopped_it_shows_and_keeps_the_parts_that_have_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setitem(benchmark.GROUPS, "all", {"loader": _measured, "scaling": interrupted})
    file = tmp_path / "b.json"
    with pytest.raises(Stopped, match="b.json"):
        benchmark.main(["all", "--json", str(file)])
    assert json.loads(file.read_text())["loader"] == {"value": 1}
    assert "2.00 times (1.50 to 2.50)" in capsys.readouterr().out
    monkeypatch.setitem(benchmark.GROUPS, "all", {"scaling": interrupted})
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(["all", "--json", str(file)])


@pytest.mark.parametrize(("device", "words"), [("gpu0", "cpu"), ("cuda", "no GPU")])
def test_a_device_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, device: str, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=words):
        benchmark.main(["loader", "--device", device])


def test_all_parts_take_device_and_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: dict[str, Any] = {}

    def measure(**settings: Any) -> dict[str, Any]:
        taken.update(settings)
        return {}

    monkeypatch.setattr("dynat_ray.benchmarks.attack_time.measure", measure)
    file = str(tmp_path / "b.json")
    benchmark.main(["attack", "--rounds", "7", "--device", "cpu", "--json", file])
    assert (taken["rounds"], taken["device"]) == (7, "cpu")
