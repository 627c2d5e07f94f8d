"""`evaluate --norms` from end to end, in one process."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dynat_ray.errors import UserError
from dynat_ray.evaluate import main
from dynat_ray.evaluation import union_of_norms
from dynat_ray.evaluation.union_of_norms import parse_norms

pytestmark = pytest.mark.usefixtures("undrawn")

NORMS = "Linf:0.08,L2:0.4,L1:1.5"
ATTACKS = "clean,pgd-5,cw-5"


@pytest.mark.usefixtures("few_iterations")
def test_each_norm_and_all_of_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "several.json"
    assert main([str(run), "--norms", NORMS, "--attacks", ATTACKS, "--out", str(out)]) == out
    content = json.loads(out.read_text())
    order = [found["norm"] for found in content["norms"]]
    assert sorted(order) == ["L1", "L2", "Linf"]
    assert "the worst first: " + order[0] in capsys.readouterr().out
    right = {}
    for found in content["norms"]:
        table = pq.read_table(tmp_path / found["file"].replace(".json", ".parquet")).to_pydict()
        for attack in ATTACKS.split(","):
            right[found["norm"], attack] = table[f"{attack}.correct"]
            accuracy = 100 * sum(right[found["norm"], attack]) / len(table["index"])
            assert found["results"][attack]["accuracy"] == pytest.approx(accuracy, abs=1e-3)
    for attack in ATTACKS.split(","):
        whole = [all(each) for each in zip(*(right[n, attack] for n in order), strict=True)]
        entry = content["union"][attack]
        assert entry["accuracy"] == pytest.approx(100 * sum(whole) / len(whole), abs=1e-3)
        assert entry["samples"] == len(whole)
    assert content["union"]["pgd-5"]["accuracy"] < content["union"]["clean"]["accuracy"]
    assert "Which norm decides" in out.with_suffix(".html").read_text()
    # Which is the worst is found in fewer passes from here on.
    monkeypatch.setattr(union_of_norms, "_PROBE", "pgd-5")
    # Only the union: whom one norm has fooled the next one does not see.
    only = tmp_path / "union.json"
    main([str(run), "--norms", NORMS, "--attacks", ATTACKS, "--union-only", "--out", str(only)])
    union = json.loads(only.read_text())
    assert "images that it saw" in only.with_suffix(".html").read_text()
    samples = [found["results"]["pgd-5"]["samples"] for found in union["norms"]]
    assert samples == sorted(samples, reverse=True)
    assert samples[-1] < samples[0]
    both = [
        all(right[norm, attack][n] for norm in order for attack in ("pgd-5", "cw-5"))
        for n in range(samples[0])
    ]
    # Random starts differ with the shards, which may decide a few.
    assert union["union"]["all attacks"]["accuracy"] == pytest.approx(
        100 * sum(both) / len(both), abs=6
    )
    # It goes on, or rather is finished.
    main(
        [str(run), "--norms", NORMS, "--attacks", ATTACKS, "--union-only", "--out", str(only)]
        + ["--resume"]
    )
    assert json.loads(only.read_text())["union"] == union["union"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--norms", "Linf:8/255"], "names Linf alone"),
        (["--norms", "Linf:8/255,L2"], "'L2'; each must be one of Linf, L2, L1 with its radius"),
        (["--norms", "Linf:8/255,L3:1"], "'L3:1'; each must be"),
        (["--norms", "Linf:0.1,Linf:0.2"], "names a norm twice"),
        (["--norms", "Linf:8,L2:1"], "more than all of"),
        (["--norms", "Linf:0.1,L2:0"], "must be more than 0"),
        (["--norms", "Linf:0.1,L2:x"], "--norms has 'x'"),
        (["--norms", NORMS, "--eps", "0.1"], "--eps is for one norm"),
        (["--norms", NORMS, "--corruptions"], "--corruptions is for one norm"),
        (["--norms", NORMS, "--attacks", "autoattack-sampled"], "does not try every image"),
        (["--union-only"], "give --norms"),
    ],
)
def test_norms_that_do_not_go_together(run: Path, options: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        main([str(run), *options])


def test_radii_are_read_as_everywhere() -> None:
    (linf, l1) = parse_norms(" Linf:8/255, L1:12")
    assert (linf.norm, linf.eps, l1.norm, l1.eps) == ("Linf", 8 / 255, "L1", 12)
