"""What `benchmark win` trains, attacks and says, also after it was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynat_ray import benchmark
from dynat_ray.benchmarks import win
from dynat_ray.config import RunConfig
from dynat_ray.errors import UserError
from dynat_ray.training.session import LocalSession
from tests.quick_attack import QUICK, quick_attacks


def test_it_goes_on_where_it_was_cut_off(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    trained: list[str] = []
    train, cut_off = win.train, ["trades"]

    def interrupted(config: RunConfig, session: LocalSession) -> None:
        trained.append(config.method.name)
        if config.method.name in cut_off:
            cut_off.clear()
            raise KeyboardInterrupt
        train(config, session)

    def measure(**size: int) -> dict[str, Any]:
        return win.measure(digits, tmp_path, **{"epochs": 1, "images": 60, "width": 8, **size})

    monkeypatch.setattr(win, "train", interrupted)
    attacks = ["clean", "pgd-2", QUICK]
    small = {"attack.steps": 2, "eval.attacks": attacks, "eval.samples": 30}
    monkeypatch.setattr(win, "_SETTINGS", win._SETTINGS | small)
    with quick_attacks():
        with pytest.raises(KeyboardInterrupt):
            measure()
        found = measure()
    assert trained == ["dynat", "trades", "trades", "pgd_at"]
    results = found["results"]
    assert list(results) == ["dynat", "trades", "pgd_at"]
    assert found["compute"] == results["pgd_at"]["forward_units"] == 7
    for entry in results.values():
        assert [entry["last"][name]["samples"] for name in attacks] == [60, 60, 30]
        assert entry["last"]["pgd-2"]["accuracy"] <= entry["last"]["clean"]["accuracy"]
    for row in found["differences"]:
        one, other = (results[row[which]]["last"][row["measure"]] for which in "ab")
        assert row["difference"] == pytest.approx(one["accuracy"] - other["accuracy"], abs=1e-2)
    assert len(found["differences"]) == 9
    shown = capsys.readouterr().out.splitlines()
    epochs = [line for line in shown if line.startswith("epoch ") and line.endswith(" left")]
    assert len(epochs) >= 3
    assert [line.split()[0] for line in shown[-17:-13]] == ["clean", "dynat", "trades", "pgd_at"]
    assert shown[-1].startswith("trades against pgd_at: ")

    assert measure()["results"] == results
    assert len(trained) == 4
    with pytest.raises(UserError, match=r"dynat was begun with another model\.kwargs"):
        measure(width=16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--data"),
        (["--data", "nowhere"], "nowhere"),
        (["--width", "0"], "--width must be at least 1"),
        (["--images", "-1"], "--images must be at least 0"),
    ],
)
def test_what_it_cannot_do(arguments: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        benchmark.main(["win", "--device", "cpu", "--json", str(tmp_path / "b.json"), *arguments])
