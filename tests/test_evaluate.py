"""The command from end to end, in one process (workers: tests/distributed)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from dynat_ray.data import LazySplit, load_info, load_test_images
from dynat_ray.distributed import evaluation_run
from dynat_ray.errors import UserError
from dynat_ray.evaluate import main
from dynat_ray.models import build_model, load_model, save_model
from tests.processes import start_python
from tests.quick_attack import QUICK, quick_attacks, square_queries

pytestmark = pytest.mark.usefixtures("undrawn")

EPS = 0.05


def test_model_and_images_need_no_other_import(run: Path, few_digits: Path) -> None:
    lines = """
import sys, dynat_ray
assert not {"torch", "timm"} & sys.modules.keys(), "it takes seconds to import"
import timm
assert timm.is_model("preact_resnet18")
model = dynat_ray.load_model(sys.argv[1])
x, y = dynat_ray.data.load_test_images(sys.argv[2])
print(len(model(x[:3])), "ray" in sys.modules)
"""
    command = [sys.executable, "-c", lines, str(run), str(few_digits)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["3", "False"]


def _rows(json_file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(json_file.with_suffix(".parquet")).to_pylist()
    return rows


@pytest.mark.usefixtures("no_checks")
def test_a_run_needs_nothing_else(
    run: Path, few_digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = main([str(run)])
    assert written == run / "evaluation.json"
    content = json.loads(written.read_text())
    images, labels = load_test_images(few_digits)
    assert set(content["results"]) == {"clean", "pgd-5", "apgd-t"}
    assert content["results"]["clean"]["samples"] == len(images)
    assert content["results"]["apgd-t"]["samples"] == 20
    assert (content["norm"], content["eps"], content["seed"]) == ("Linf", EPS, 3)
    clean = load_model(run)(images).argmax(dim=1)
    assert content["results"]["clean"]["accuracy"] == pytest.approx(
        100 * float((clean == labels).float().mean()), abs=1e-3
    )
    table = capsys.readouterr().out
    assert all(attack in table for attack in ("clean", "pgd-5", "apgd-t"))


@pytest.mark.usefixtures("no_checks")
def test_rows_say_what_became_of_each_sample(run: Path, few_digits: Path, tmp_path: Path) -> None:
    out = main([str(run), "--samples", "20", "--out", str(tmp_path / "a.json")])
    images, labels = load_test_images(few_digits)
    rows = _rows(out)
    assert len(rows) == 20
    predicted = load_model(run)(images).argmax(dim=1)
    for row in rows:
        assert row["label"] == labels[row["index"]]
        assert row["clean.predicted"] == predicted[row["index"]]
        assert row["clean.correct"] == (row["clean.predicted"] == row["label"])
        assert row["apgd-t.correct"] <= row["clean.correct"]
        assert (row["apgd-t.fooled_by"] == "apgd-t") == (
            row["clean.correct"] and not row["apgd-t.correct"]
        )
    results = json.loads(out.read_text())["results"]
    assert results["apgd-t"]["accuracy"] == 5 * sum(row["apgd-t.correct"] for row in rows)


@pytest.fixture
def numbers_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images were read at a time."""
    read, get = [], LazySplit.__getitem__

    def counted(self: LazySplit, wanted: torch.Tensor) -> torch.Tensor:
        read.append(len(wanted))
        return get(self, wanted)

    monkeypatch.setattr(LazySplit, "__getitem__", counted)
    return read


def test_several_radii_give_a_falling_curve_from_clean_accuracy(
    run: Path, tmp_path: Path, numbers_read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_run, "CHECK_SAMPLES", 16)
    out = main(
        [
            *(str(run), "--eps", "0,0.02,0.1", "--attacks", "clean,pgd-5"),
            *("--batch-size", "45", "--out", str(tmp_path / "c")),
        ]
    )
    # The data set has 60 test images: nobody holds all of them.
    assert max(numbers_read) <= 45
    assert sum(numbers_read) > 60
    curve = json.loads(out.read_text())["curve"]
    assert [point["eps"] for point in curve] == [0, 0.02, 0.1]
    robust = [point["results"]["pgd-5"]["accuracy"] for point in curve]
    assert robust[0] == curve[0]["results"]["clean"]["accuracy"]
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < robust[0]
    # Where each image falls says the same, on a page too.
    images = pq.read_table(tmp_path / "c.images.parquet").to_pydict()
    stand = [100 * np.mean([r is None or r > eps for r in images["radius"]]) for eps in (0, 0.02)]
    assert stand == pytest.approx(robust[:2], abs=1e-3)
    wrong = np.array(images["predicted"]) != np.array(images["label"])
    assert (np.array(images["margin"])[wrong] <= 0).all()
    assert [radius == 0 for radius in images["radius"]] == wrong.tolist()
    page = (tmp_path / "c.images.html").read_text()
    assert "The least robust of them first" in page
    assert 'href="c.images.html"' in (tmp_path / "c.html").read_text()


def test_training_foretells_which_of_its_images_fall(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    out = tmp_path / "c.json"
    arguments = [str(run), "--split", "train", "--eps", "0.02,0.05,0.1", "--samples", "60"]
    arguments += ["--attacks", "clean,pgd-5", "--out", str(out)]
    main(arguments)
    assert json.loads(out.read_text())["split"] == "train"
    assert "fragility_correlation" not in json.loads(out.read_text())["images"]
    assert "Training images still right" in (tmp_path / "c.html").read_text()
    # Training that knew the outcome, but of one image, and had no other order of the rest.
    images = pq.read_table(tmp_path / "c.images.parquet").to_pandas()
    kept = images.iloc[1:].sample(frac=1, random_state=0)
    radius = kept["radius"].fillna(1.0)
    samples = {"index": kept["index"], "label": kept["label"], "eps": 0.1, "fragility": -radius}
    (run / "samples").mkdir()
    pd.DataFrame(samples).to_parquet(run / "samples" / "epoch_0004.parquet")
    (run / "metrics.jsonl").write_text('{"epoch": 4, "epochs_done": 5}\n')
    found = json.loads(main(arguments).read_text())["images"]["fragility_correlation"]
    assert found["value"] > 0.9
    assert found["images"] == int((kept["radius"] > 0).sum() + kept["radius"].isna().sum())
    assert found["epoch"] == 5
    assert "held the image to be in epoch 5" in (tmp_path / "c.images.html").read_text()
    with pytest.raises(UserError, match="of the train split, not of the test split"):
        main([str(run), "--attacks", "clean", "--samples", "60", "--compare", str(out)])


@pytest.mark.usefixtures("no_checks")
def test_a_sampled_attack_says_whom_it_tried(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run), "--samples", "30", "--attacks", f"clean,{QUICK}"]
    with quick_attacks():
        curve = main(
            [*arguments, *("--eps", "0,0.02,0.05,0.1", "--second-stage", "6")]
            + ["--out", str(tmp_path / "curve.json")]
        )
        whole = main([*arguments, "--second-stage", "60", "--out", str(tmp_path / "whole.json")])
    printed = capsys.readouterr().out
    assert "6 of " in printed
    assert "note: quick-sampled is an estimate" in printed
    content = json.loads(curve.read_text())
    assert (content["second_stage"], content["shown_eps"]) == (6, EPS)
    entries = [point["results"][QUICK] for point in content["curve"]]
    assert "two_stage" not in entries[0]
    for number in ("accuracy", "interval"):
        values = [entry[number] for entry in entries]
        assert values == sorted(values, reverse=True)
    assert {stratum["tried"] for stratum in (e["two_stage"]["strata"][1] for e in entries[1:])} == {
        6
    }
    page = curve.with_suffix(".html").read_text()
    assert "quick-sampled at Linf eps 12.8/255" in page
    assert "survivors were tried" in page
    tried = [row[f"{QUICK}.tried"] for row in _rows(curve) if row["eps"] == EPS]
    assert sum(tried) == sum(s["tried"] for s in entries[2]["two_stage"]["strata"])
    assert not list(tmp_path.glob("*robustbench*"))
    entry = json.loads(whole.read_text())["results"][QUICK]
    strata = entry["two_stage"]["strata"]
    assert all(stratum["tried"] == stratum["survivors"] for stratum in strata)
    assert f"all {sum(s['survivors'] for s in strata)} survivors were tried" in printed


def test_radii_in_units_of_the_one_that_fools_half(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "reference.json"
    main([str(run), "--attacks", "fgsm", "--eps-ref", str(run), "--out", str(out)])
    content = json.loads(out.read_text())
    curve, reference = content["curve"], content["eps_ref"]["eps"]
    assert content["eps_ref"]["model"] == str(run)
    assert "eps_ref" in out.with_suffix(".html").read_text()
    assert [entry["eps"] / reference for entry in curve] == pytest.approx([0.2, 0.5, 1])
    accuracies = [entry["results"]["fgsm"]["accuracy"] for entry in curve]
    assert accuracies[0] > accuracies[1] > accuracies[2] == pytest.approx(50, abs=2)


def test_killed_and_resumed_is_as_if_undisturbed(run: Path, tmp_path: Path) -> None:
    arguments = [
        *(str(run), "--attacks", "clean,pgd-20,apgd-ce"),
        *("--samples", "32", "--batch-size", "4"),
    ]
    whole = main([*arguments, "--out", str(tmp_path / "whole.json")])
    out = tmp_path / "killed.json"
    state = tmp_path / "killed.state.jsonl"
    for kill in range(2):
        process = start_python(
            *("-m", "dynat_ray.evaluate", *arguments, "--out", str(out), "--resume")
        )
        while process.is_alive():
            if state.exists() and state.read_bytes().count(b"\n") >= 3 * (kill + 1):
                process.kill()
                break
            time.sleep(0.002)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert main([*arguments, "--out", str(out), "--resume"]) == out
    assert _rows(out) == _rows(whole)
    assert json.loads(out.read_text())["results"] == json.loads(whole.read_text())["results"]


def test_a_state_of_another_model_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    main([str(run), "--attacks", "clean", "--out", str(out)])
    other = load_model(run)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    save_model(other, tmp_path / "other")
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["path"]
    arguments = ["--data", data, "--eps", str(EPS), "--attacks", "clean", "--out", str(out)]
    with pytest.raises(UserError, match="another model"):
        main([str(tmp_path / "other"), *arguments, "--resume"])


def test_data_of_other_classes_or_size(run: Path, tmp_path: Path, few_digits: Path) -> None:
    info = load_info(few_digits)
    for wrong, message in (
        ({"num_classes": 7}, "7 classes"),
        ({"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}, "3 channels"),
        ({"size": (28, 28)}, "28, 28"),
    ):
        settings: dict[str, Any] = {
            "num_classes": 10,
            "channels": 1,
            "size": info.size,
            "mean": info.mean,
            "std": info.std,
            **wrong,
        }
        save_model(build_model("mlp", **settings), tmp_path / "model")
        with pytest.raises(UserError, match=message):
            main([str(tmp_path / "model"), "--data", str(few_digits), "--attacks", "clean"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "there is no model 'no-such-model'"),
        (["{run}", "--atacks", "clean"], "unrecognized arguments"),
        (["{run}", "--norm", "L7"], "invalid choice"),
        (["{run}", "--workers", "0"], "--workers is 0"),
        (["{run}", "--second-stage", "-1"], "--second-stage is -1"),
        (["{run}", "--data", "/no/such/folder"], "/no/such/folder does not exist"),
        (["no_such_module:model"], "gives no model"),
        (["{run}", "--split", "train", "--norms", "Linf:0.1,L2:1"], "leave out --norms"),
        (["{run}", "--split", "train", "--corruptions-from", "x"], "leave out --split"),
        (["{run}", "--out", "S3://bucket/evaluation.json"], "written to a file"),
    ],
)
def test_mistakes_are_named(run: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([argument.format(run=run) for argument in arguments])


def test_a_function_that_makes_the_model(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_model.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    out = main(["own_model:make", "--data", str(few_digits), "--attacks", "clean,fgsm"])
    assert out == Path("evaluation.json")
    assert set(json.loads(out.read_text())["results"]) == {"clean", "fgsm"}


@pytest.mark.usefixtures("few_iterations")
def test_distances_and_page(run: Path, tmp_path: Path) -> None:
    arguments = [str(run), "--samples", "12", "--batch-size", "12"]
    arguments += ["--attacks", "clean,autoattack", "--distances"]
    with square_queries(200):
        first = main([*arguments, "--out", str(tmp_path / "a.json")])
    content = json.loads(first.read_text())
    rows = _rows(first)
    right = [row["fab.distance"] for row in rows if row["fab.distance"] > 0]
    assert content["distances"]["fab"]["right_without_attack"] == len(right)
    assert content["distances"]["deepfool"]["samples"] == 12
    assert all((row["fab.distance"] > 0) == row["clean.correct"] for row in rows)
    # An image with a nearer adversarial image than eps does not stand.
    assert not any(row["autoattack.correct"] for row in rows if 0 < row["fab.distance"] < 0.9 * EPS)
    entry = json.loads((tmp_path / "a.robustbench.json").read_text())
    assert float(entry["autoattack_acc"]) == content["results"]["autoattack"]["accuracy"]
    page = first.with_suffix(".html").read_text()
    for heading in ("Can these numbers be trusted?", "By class", "The nearest adversarial images"):
        assert heading in page
    assert "Beside other evaluations" not in page
    assert "differences" not in content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corruptions"], "at least 32 pixels"),
        (["--corruptions", "smog"], "corruption"),
        (["--distances", "deepfull"], "deepfool"),
        (["--compare", "/no/such.json"], "--compare /no/such.json does not exist"),
        (["--compare", "{folder}"], "can't be read"),
        (["--surrogate", "no-such-model"], "there is no model"),
        (["--surrogate", "torch.nn:Identity"], "--surrogate: the model must return logits"),
        (["--out", "{folder}"], "which is a folder"),
        (["--eps", "8"], "eps 8 under Linf"),
    ],
)
def test_mistakes_in_what_else_is_measured(
    run: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    pytest.importorskip("imagecorruptions")
    with pytest.raises(UserError, match=message):
        main([str(run), *(argument.format(folder=tmp_path) for argument in arguments)])
