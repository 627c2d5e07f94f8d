"""`evaluate --compare`: differences to earlier evaluations, and what is not compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from dynat_ray.data.preparing import prepare_dataset
from dynat_ray.errors import UserError
from dynat_ray.evaluate import main
from dynat_ray.models import load_model, save_model

pytestmark = pytest.mark.usefixtures("undrawn")


def test_differences_to_another_evaluation(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two models on the same images, once without attack and once at each eps above 0."""
    other = load_model(run)
    with torch.no_grad():
        next(other.parameters()).mul_(0.2)
    save_model(other, tmp_path / "other")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    what = ["--data", settings["data"]["path"], "--attacks", "clean,pgd-5", "--eps", "0,0.02,0.1"]
    first = main([str(tmp_path / "other"), *what, "--out", str(tmp_path / "a.json")])
    out = str(tmp_path / "b.json")
    # Another seed of the attacks does not make them other attacks.
    second = main([str(run), *what, "--seed", "9", "--out", out, "--compare", str(first)])
    found = json.loads(second.read_text())["differences"]
    names = ["clean", "pgd-5, Linf 5.1/255", "pgd-5, Linf 25.5/255"]
    assert [row["measure"] for row in found] == names
    rows, theirs = (
        pq.read_table(file.with_suffix(".parquet")).to_pylist() for file in (second, first)
    )
    at = [row["eps"] == 0.02 for row in rows]
    ahead = sum(
        row["pgd-5.correct"] - their["pgd-5.correct"]
        for row, their, counts in zip(rows, theirs, at, strict=True)
        if counts
    )
    assert found[1]["difference"] == pytest.approx(100 * ahead / sum(at), abs=1e-3)
    assert found[1]["low"] <= found[1]["difference"] <= found[1]["high"]
    assert (found[1]["seeds"], found[1]["images"]) == (1, sum(at))
    lines = (tmp_path / "b.differences.csv").read_text().splitlines()
    assert lines[0] == "a,b,measure,difference,low,high,seeds,images"
    assert len(lines) == 4
    assert not (tmp_path / "a.differences.csv").exists()
    page = second.with_suffix(".html").read_text()
    table = capsys.readouterr().out
    for words in ("Beside other evaluations", "What differs", "Accuracy over eps"):
        assert words in page
    assert f"{run} against {tmp_path / 'other'}: " in page
    assert f"{run} against {tmp_path / 'other'}: " in table


@pytest.fixture(scope="module")
def earlier(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of 20 images."""
    out = str(tmp_path_factory.mktemp("earlier") / "earlier.json")
    return Path(main([str(run), "--attacks", "clean,fgsm", "--samples", "20", "--out", out]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--attacks clean,fgsm --samples 10", "it is of 20 test images, not 10"),
        ("--attacks clean,fgsm,pgd-2", "it has no pgd-2$"),
        ("--attacks clean", "this one has no fgsm$"),
        ("--attacks clean,fgsm-2", "unknown attack"),
        ("--attacks clean,pgd-2", "it has no pgd-2; this one has no fgsm$"),
        ("--attacks clean,fgsm --eps 8/255", "its eps is 0.05, not 8/255$"),
        ("--attacks clean,fgsm --eps 0.05,8/255", "its eps is 0.05, not 8/255, 0.05"),
        ("--attacks clean,fgsm --norm L2 --eps 0.05", "its norm is Linf, not L2"),
        ("--attacks clean,fgsm --data {other}", "of other images, those of another data set"),
    ],
)
def test_what_can_not_be_compared_is_refused_before_anything_runs(
    run: Path, tmp_path: Path, earlier: Path, arguments: str, message: str
) -> None:
    prepare_dataset("digits", tmp_path / "other", limit=80, progress=False)
    given = arguments.format(other=tmp_path / "other").split()
    if "--samples" not in given:
        given += ["--samples", "20"]
    out = tmp_path / "out.json"
    with pytest.raises(UserError, match=message):
        main([str(run), *given, "--out", str(out), "--compare", str(earlier)])
    assert not out.exists()


def test_an_evaluation_is_compared_with_its_samples_beside_it_only(
    run: Path, tmp_path: Path, earlier: Path
) -> None:
    shutil.copy(earlier, tmp_path / "alone.json")
    arguments = [str(run), "--attacks", "clean,fgsm", "--samples", "20"]
    with pytest.raises(UserError, match=r"without earlier\.parquet beside it"):
        main([*arguments, "--compare", str(tmp_path / "alone.json")])


def test_only_evaluations_are_compared(run: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UserError, match="not the JSON file of an evaluation"):
        main([str(run), "--compare", str(tmp_path / "x.json")])


def test_names_with_a_point_keep_apart(run: Path, tmp_path: Path) -> None:
    for name in ("eps0.02", "eps0.1"):
        eps = name.removeprefix("eps")
        out = main([str(run), "--attacks", "clean", "--eps", eps, "--out", str(tmp_path / name)])
        assert json.loads(out.read_text())["eps"] == float(eps)
    assert {f"eps{eps}.parquet" for eps in ("0.02", "0.1")} <= {f.name for f in tmp_path.iterdir()}


@pytest.mark.usefixtures("no_checks")
def test_fewer_images_for_a_costly_attack_are_other_images(run: Path, tmp_path: Path) -> None:
    runs = []
    for samples in (10, 20):
        settings = yaml.safe_load((run / "config.yaml").read_text())
        settings["eval"]["samples"] = samples
        runs.append(tmp_path / str(samples))
        shutil.copytree(run / "model", runs[-1] / "model")
        (runs[-1] / "config.yaml").write_text(yaml.safe_dump(settings))
    first = main([str(runs[0])])
    with pytest.raises(UserError, match="under apgd-t it is of 10 test images, not 20"):
        main([str(runs[1]), "--compare", str(first)])
