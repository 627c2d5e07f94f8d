"""What `benchmark gpu` measures, at a size that a CPU can do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynat_ray import benchmark
from dynat_ray.benchmarks import gpu, speedrun
from dynat_ray.benchmarks.parts import GROUPS
from dynat_ray.errors import UserError
from dynat_ray.models import load_model

WIN = {"pgd_at": {"last": {"clean": {"accuracy": 81.5, "samples": 10000}}, "seconds": 60.0}}


def test_each_part_is_measured_and_kept_whatever_happens_to_others(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    taken: list[dict[str, Any]] = []

    def ratio(run: Path, **settings: Any) -> dict[str, Any]:
        taken.append({"run": run, **settings})
        return {"ratios": {"dynat_step_by_pgd_at": {"median": 0.5, "min": 0.5, "max": 0.5}}}

    def steps(**settings: Any) -> dict[str, Any]:
        taken.append(settings)
        return {"ratios": {"art": {"median": 2.0, "min": 2.0, "max": 2.0}}}

    def attack(**settings: Any) -> dict[str, Any]:
        taken.append(settings)
        return {"ratios": {}}

    def failing(**settings: Any) -> dict[str, Any]:
        taken.append(settings)
        raise RuntimeError("out of memory")

    # Each is held by tests of its own.
    monkeypatch.setattr(gpu.step_time, "measure", steps)
    monkeypatch.setattr(gpu.stopping, "measure", ratio)
    monkeypatch.setattr(gpu.attack_time, "measure", attack)
    monkeypatch.setattr(gpu.profile, "measure", failing)
    monkeypatch.setattr(gpu, "_SPEEDRUN_ATTACKS", ("clean", "pgd-2"))
    earlier, file = tmp_path / "earlier.json", tmp_path / "b.json"
    earlier.write_text(json.dumps({"win": {"results": WIN}}))
    size = ["--images", "40", "--epochs", "1", "--width", "8", "--rounds", "1"]
    given = ["--data", str(digits), "--earlier", str(earlier), "--json", str(file)]
    with pytest.raises(UserError, match="^wide_resnet28_10: out of memory"):
        benchmark.main(["gpu", "--device", "cpu", *given, *size])

    found = json.loads(file.read_text())
    assert set(found) == {"ratios", *GROUPS["gpu"]}
    assert found["ratios"]["art, batch 512"] == found["ratios"]["art, batch 128"]
    assert found["ratios"]["dynat_step_by_pgd_at"]["median"] == 0.5
    assert [each.get("batch_size") for each in taken] == [4, 4, 4, None, 4]
    run = tmp_path / "b.runs" / "dynat"
    assert load_model(run).num_classes == 10
    assert taken[2]["run"] == taken[3]["run"] == run
    assert (taken[3]["images"], taken[3]["on_ray"]) == (40, False)
    assert (taken[4]["depth"], taken[4]["widen"]) == (28, 1)
    own, pgd_at = (found["speedrun"][name] for name in ("speedrun", "reference"))
    assert own["samples"] == 40
    assert own["pgd-2"] <= own["clean"]
    assert (pgd_at["clean"], pgd_at["samples"]) == (81.5, 10000)
    assert "clean 81.5 %" in capsys.readouterr().out


def test_on_a_gpu_it_is_as_large_as_nine_minutes_allow(tmp_path: Path) -> None:
    asked = gpu.Asked(data=tmp_path, folder=tmp_path, device="cuda", rounds=3)
    assert asked.compiled
    assert asked.batch(512) == 512
    assert asked.settings(250)["data.limit"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "'gpu' needs prepared images: give --data DIR"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "DIGITS", "--earlier", "nothing.json"], "--earlier nothing.json has no PGD-AT"),
    ],
)
def test_what_it_cannot_do_is_said_first(digits: Path, arguments: list[str], words: str) -> None:
    given = [str(digits) if each == "DIGITS" else each for each in arguments]
    with pytest.raises(UserError, match=words):
        benchmark.main(["gpu", "--device", "cpu", *given])


def test_plain_pgd_at_of_an_earlier_speedrun(tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    entry = {"seconds": 3.0, "clean": 80.0, "autoattack": 45.0, "samples": 1000}
    file.write_text(json.dumps({"speedrun": {"reference": entry}}))
    assert speedrun.stored_reference(file) == entry
